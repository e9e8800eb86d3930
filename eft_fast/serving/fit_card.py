"""What a model that fits says of itself: in its metadata, and in ``fit.json`` beside it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from eft_fast.conventions import SCALE_SHIFT
from eft_fast.keypoints import JOINT_SETS
from eft_fast.serving.card import parse_fields

FORMAT: Final = "eft_fast-fit-model-1"
#: The file that fits, and its card, beside the model.
FIT_MODEL_NAME: Final = "fit.onnx"
FIT_CARD_NAME: Final = "fit.json"
#: Stored people with torch's fits of them.
FIT_SAMPLES_NAME: Final = "fit_samples.npz"
#: Name in the metadata of the file.
METADATA: Final = "fit"
#: Inputs behind the picture, with the length of their last axis; -1: a number for each keypoint.
INPUTS: Final = {"keypoints": 3, "sigma": -1, "pinhole": 4}


@dataclass(frozen=True)
class FitCard:
    """Everything that a program needs to fit people with one file.

    Attributes:
        regressor: Id of the regressor and hash of its weights.
        weights_sha256: The whole of that hash.
        body: Id of the body.
        joint_set: Order of the keypoints.
        keypoint_names: Name of each of them.
        input_size: Side S of the square crop in pixels.
        box_margin: Side of the crop over the longer side of the person's box.
        camera_convention: Meaning of ``cam``; ``scale_shift`` is u = s * X + t.
        inputs: Name -> shape behind the batch, element type and meaning.
        outputs: Name -> shape behind the batch.
        units: Name of an output -> meaning.
        options: Options of the fit, ``map_fit.config.MapConfig``.
        joint_names: Names of ``joints``; empty without that output.
        opset: ONNX opset.
        max_batch: Largest batch that was verified.
        licence: SPDX expression of weights and body data in the file, as far as known.
        notice: What whoever passes the file on must know.
        eft_fast_version: Version that exported it.
        exported: When, UTC.
        max_difference: Largest differences to torch's fits of the stored people.
        format: Version of this record.
    """

    regressor: str
    weights_sha256: str
    body: str
    joint_set: str
    keypoint_names: list[str]
    input_size: int
    box_margin: float
    camera_convention: str
    inputs: dict[str, str]
    outputs: dict[str, list[int]]
    units: dict[str, str]
    options: dict[str, float]
    joint_names: list[str]
    opset: int
    max_batch: int
    licence: str
    notice: str
    eft_fast_version: str
    exported: str
    max_difference: dict[str, float] = field(default_factory=dict)
    format: str = FORMAT

    def to_strings(self) -> dict[str, str]:
        """The form of ONNX metadata."""
        return {METADATA: json.dumps(asdict(self))}

    def to_json(self) -> str:
        """The text of ``fit.json``."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_text(cls, text: str, who: str) -> FitCard:
        """Check and take the JSON of a card.

        Raises:
            ValueError: If it is damaged, from another version, or says what no model here says.
        """
        card = cls(**parse_fields(cls, text, who, file_format=FORMAT, option="--fit"))
        is_usable = (
            1 <= card.input_size <= 4096
            and 0.1 <= card.box_margin <= 10
            and card.max_batch >= 1
            and card.camera_convention == SCALE_SHIFT
            and card.joint_set in JOINT_SETS
            and list(JOINT_SETS[card.joint_set].names) == card.keypoint_names
        )
        if not is_usable:
            raise ValueError(f"{who} describes crops or keypoints that no model here takes")
        return card


def load_fit_card(folder: str | Path) -> FitCard:
    """Read ``fit.json`` of an exported folder.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged or from another version.
    """
    path = Path(folder) / FIT_CARD_NAME
    if not path.is_file():
        raise FileNotFoundError(f"serving: no {FIT_MODEL_NAME} in {folder}; export with --fit")
    return FitCard.from_text(path.read_text(encoding="utf-8"), f"serving: {path}")
