"""Names that options take, known without loading torch.

``tests/cli/test_choices.py`` holds those that are written out here equal to the library's own.
"""

from __future__ import annotations

from typing import Final

from eft_fast.deploy.formats import FIT_FORMATS
from eft_fast.deploy.formats import FORMATS as EXPORT_FORMATS
from eft_fast.eft.config import EFT_MODES
from eft_fast.keypoints import ALIASES, JOINT_SETS
from eft_fast.serving.session import PROVIDERS
from eft_fast.smplify.config import PRIORS, RECIPES, STARTS

__all__ = ["EFT_MODES", "EXPORT_FORMATS", "FIT_FORMATS", "PRIORS", "PROVIDERS", "STARTS"]

#: Ways to fit a person.
METHODS: Final = ("eft", "map", "smplify", *RECIPES, "none")
#: Where keypoints come from, and so how far off they are.
NOISES: Final = ("labels", "detector", "landmarks", "movenet")
#: Orders of keypoints, by every name that they have.
ALL_JOINT_SETS: Final = (*JOINT_SETS, *ALIASES)

EXPORT_OUTPUTS: Final = ("params", "joints", "vertices")
#: Precisions that have to pass the gate on photos and rendered people, and their formats.
GATED: Final = {"int8": ("onnx", "openvino", "triton"), "bf16": ("openvino",)}
EXPORT_PRECISIONS: Final = ("fp32", "fp16", *GATED)
OPSETS: Final = (18, 20, 22, 23)
#: Runtimes of ``bench onnx``.
ENGINES: Final = (
    "onnxruntime", "torch_eager", "torch_compile", "openvino", "openvino_bf16", "onnxruntime_int8",
    "openvino_int8",
)  # fmt: skip

#: Who fits the people of a run.
BACKENDS: Final = ("local", "ray")
#: Formats of ``convert``: many people in one file, and one body per file.
LABEL_FORMATS: Final = (
    "eft-json", "eft-pickle", "spin-npz", "hmr2-tar", "humandata-npz", "amass-npz", "smpl",
    "parquet", "npz",
)  # fmt: skip
BODY_FORMATS: Final = ("obj", "ply", "glb", "bvh", "usd")

#: Parts of the motion capture, divided by recording.
SPLITS: Final = ("train", "test", "val")
#: Kinds of rendered scenes.
SCENES: Final = ("training", "varied", "standing", "sitting", "lying", "rolled", "children")
#: Stages of a training run.
STAGES: Final = ("render", "head", "finetune", "evaluate")

#: ``models.registry``: the regressors of the package by name.
REGRESSORS: Final = ("open", "open-1", "open-2", "open-2-lite")
#: Networks that a training run on rendered people can make.
NETWORKS: Final = ("open-1", "open-2")
