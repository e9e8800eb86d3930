"""What an exported detector says of itself: in the metadata of both networks, and beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from eft_fast.models.keypoint_noise import KeypointNoise
from eft_fast.person_boxes import INPUT_SIZE
from eft_fast.serving.card import parse_fields

FORMAT: Final = "eft_fast-detector-2"
#: Folder beside the model, and the files in it.
DETECTOR_FOLDER: Final = "detector"
DETECTOR_CARD_NAME: Final = "detector.json"
BOXES_NAME: Final = "boxes.onnx"
KEYPOINTS_NAME: Final = "keypoints.onnx"
#: Output of each network.
OUTPUT_NAMES: Final[Mapping[str, str]] = {BOXES_NAME: "cells", KEYPOINTS_NAME: "keypoints"}


@dataclass(frozen=True)
class DetectorCard:
    """Everything that a program needs to find people with the two networks.

    Both take ``image``, uint8 ``[batch, H, W, 3]``, RGB, not normalised.

    Attributes:
        boxes: Name of the network of boxes and hash of its weights. Sides of its pictures are
            multiples of 32; its output ``cells`` is what ``person_boxes.decode`` reads.
        keypoints: Name of the network of keypoints and hash of its weights. Its output
            ``keypoints`` ``[batch, 17, 3]`` has x and y in crop pixels, counted from the crop's
            edge, and the score.
        weights_sha256: The whole of both hashes.
        picture_size: Longer side of the pictures.
        crop_size: Side of the crops.
        smaller_crops: Sides of the crops of small people; see
            ``person_keypoints.keypoints_in_boxes``.
        crop_factor: Side of the crop over the longer side of the box.
        joint_set: Order of the keypoints.
        noise_confidence: Knots of the curve from a keypoint's score to its sigma.
        noise_sigma: Sigmas there, see ``models.keypoint_noise``.
        noise_source: On what it was measured.
        opset: ONNX opset.
        licence: SPDX expression of the weights.
        notice: Whose the networks are and what was changed.
        eft_fast_version: Version that exported it.
        exported: When, UTC.
        max_difference: Per output, largest difference to torch on the stored samples.
        format: Version of this record.
    """

    boxes: str
    keypoints: str
    weights_sha256: list[str]
    picture_size: int
    crop_size: int
    smaller_crops: list[list[float]]
    crop_factor: float
    joint_set: str
    noise_confidence: list[float]
    noise_sigma: list[float]
    noise_source: str
    opset: int
    licence: str
    notice: str
    eft_fast_version: str
    exported: str
    max_difference: dict[str, float] = field(default_factory=dict)
    format: str = FORMAT

    @property
    def noise(self) -> KeypointNoise:
        """How far off keypoints are, by their scores."""
        return KeypointNoise(
            np.array(self.noise_confidence, np.float64),
            np.array(self.noise_sigma, np.float64),
            0,
            self.noise_source,
        )

    def to_strings(self) -> dict[str, str]:
        """The form of ONNX metadata."""
        return {"detector": json.dumps(asdict(self))}

    def to_json(self) -> str:
        """The text of ``detector.json``."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_text(cls, text: str, who: str) -> DetectorCard:
        """Check and take the JSON of a card.

        Raises:
            ValueError: If it is damaged, from another version, or says what no detector here says.
        """
        card = cls(**parse_fields(cls, text, who, file_format=FORMAT, option="--detector"))
        is_usable = (
            card.picture_size == INPUT_SIZE
            and 1 <= card.crop_size <= INPUT_SIZE
            and all(
                len(pair) == 2 and 1 <= pair[1] <= card.crop_size for pair in card.smaller_crops
            )
            and math.isfinite(card.crop_factor)
            and 0.1 <= card.crop_factor <= 10
            and card.joint_set == "coco17"
        )
        if not is_usable:
            raise ValueError(f"{who} describes pictures or crops that no detector here takes")
        try:
            card.noise  # noqa: B018
        except ValueError as error:
            raise ValueError(f"{who}: {error}") from error
        return card


def load_detector_card(folder: str | Path) -> DetectorCard:
    """Read the card of an exported detector.

    Args:
        folder: Where the two networks lie.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged or from another version.
    """
    path = Path(folder) / DETECTOR_CARD_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"serving: no detector in {Path(folder).parent}; export again with --detector"
        )
    return DetectorCard.from_text(path.read_text(encoding="utf-8"), f"serving: {path}")
