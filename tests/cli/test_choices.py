"""Names that the command line knows without torch are those of the library."""

from __future__ import annotations

from eft_fast.cli import calibrate, choices
from eft_fast.deploy import graph, onnx_export, reduced, speed
from eft_fast.eft.config import EFT_MODES
from eft_fast.exports import BODY_FORMATS
from eft_fast.models.keypoint_noise import CURVES
from eft_fast.models.registry import OPEN_REGRESSORS
from eft_fast.pipeline.dispatch import METHODS
from eft_fast.pseudo_gt import FORMATS
from eft_fast.synth.config import SCENES
from eft_fast.synth.motion import SPLITS
from eft_fast.training.config_file import _RUNS, STAGES
from eft_fast.training.error_covariance import CALIBRATION_SEED


def test_names_are_those_of_the_library():
    assert choices.METHODS == METHODS
    assert choices.NOISES == tuple(CURVES)
    assert choices.EFT_MODES == EFT_MODES
    assert choices.EXPORT_OUTPUTS == graph.OUTPUTS
    assert choices.EXPORT_PRECISIONS == (*graph.PRECISIONS, *choices.GATED)
    assert choices.GATED == reduced.REDUCED
    assert choices.OPSETS == onnx_export.OPSETS
    assert choices.ENGINES == speed.ENGINES
    assert choices.LABEL_FORMATS == tuple(FORMATS)
    assert choices.BODY_FORMATS == BODY_FORMATS
    assert choices.SPLITS == SPLITS
    assert choices.SCENES == SCENES
    assert choices.STAGES == STAGES
    assert choices.REGRESSORS == ("open", *OPEN_REGRESSORS)
    assert choices.NETWORKS == tuple(_RUNS)
    assert calibrate.SEED == CALIBRATION_SEED
