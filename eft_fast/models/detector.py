"""People and their keypoints from a plain photo, for users who bring none.

YOLOX-nano draws boxes around the people in the whole photo, MoveNet Thunder finds the keypoints in
each box; both with the published weights. On 14 open COCO val2017
photos, on which nothing was chosen, 47 of the 49 labelled people above 64 pixels are found, and 30
of the 31 with ten keypoints or more and 8,000 square pixels; 81 % of the keypoints of those 31 are
off by less than a tenth of the root of the box area (69 % by less than a twentieth), those of the
missed person counted as wrong. 56 boxes above 64 pixels were drawn; the nine that meet no label
hold for the most part unlabelled people or parts of labelled ones, but also a statue and a
figurine. On one core a photo takes
0.55 s where the search by BlazePose that this replaces took 3.5 (one run on a busy machine; it
found 31 of the 49 and 23 of the 31, with 62 % of the keypoints). Of 27 photos without people one
got a box.

People under 32 pixels are left out. What is missed are above all people of whom little is to be
seen: behind others, at the edge, lying, or out of focus. In crowds two people may share a box, and
a box that holds two may get the keypoints of either.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8

from eft_fast.imaging.crop import check_rgb
from eft_fast.keypoints import JointSet
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.models.base import Regressor
from eft_fast.models.movenet import MoveNet
from eft_fast.models.movenet_keypoints import load_movenet, movenet_keypoints
from eft_fast.models.yolox import YoloxNano, load_published_yolox
from eft_fast.person_boxes import find_boxes


@dataclass(frozen=True, eq=False)
class Detection:
    """One person in a photo.

    Attributes:
        keypoints: x, y in photo pixels and score in [0, 1] in the order of ``joint_set``; points
            that the network does not have, or puts outside the photo, are all zeros. What a score
            is worth, ``models.keypoint_noise`` says (``"detector"``).
        box: x, y, w, h in photo pixels, inside the photo.
        score: Probability that the box holds a person.
        joint_set: Name of the order of ``keypoints``.
    """

    keypoints: Float[np.ndarray, "K 3"]
    box: Float[np.ndarray, " 4"]
    score: float
    joint_set: str


def detect_people(
    image: UInt8[np.ndarray, "H W 3"],
    regressor: Regressor | None = None,
    *,
    joint_set: str | JointSet = "coco17",
) -> list[Detection]:
    """Find people and their keypoints, the surest first.

    Args:
        image: RGB photo, as ``imaging.load_image`` returns it.
        regressor: The networks of the detector run on its device; None: on the CPU.
        joint_set: Order of the keypoints to return. The 17 of COCO are matched by name; joints
            that are not among them get no point.

    Raises:
        TypeError: If the image is not an 8-bit array, or the regressor none.
        ValueError: If the image is not RGB or over 15,000 pixels wide or high, or the joint set is
            unknown.

    Example:
        >>> people = detect_people(load_image("photo.jpg"))
        >>> people[0].keypoints.shape
        (17, 3)
    """
    check_rgb(image, "detect_people")
    order = find_joint_set(joint_set)
    if not isinstance(regressor, Regressor | None):
        raise TypeError(
            f"detect_people: regressor must be a Regressor or None, got {type(regressor).__name__}"
        )
    device = torch.device("cpu") if regressor is None else next(regressor.parameters()).device
    yolox, movenet = _load_networks(device)
    found = find_boxes(image, lambda picture: _run(yolox, picture))
    if not len(found):
        return []
    points = movenet_keypoints(movenet, image, found[:, :4])
    return [
        Detection(_to_order(each, image, order), row[:4], float(row[4]), order.name)
        for row, each in zip(found, points, strict=True)
    ]


@lru_cache(maxsize=2)
def _load_networks(device: torch.device) -> tuple[YoloxNano, MoveNet]:
    return load_published_yolox().to(device), load_movenet().to(device)


@torch.no_grad()
def _run(
    network: YoloxNano, picture: Float32[np.ndarray, "1 3 S S"]
) -> Float32[np.ndarray, "1 N 6"]:
    device = network.stem.weight.device
    answer: Float32[np.ndarray, "1 N 6"] = (
        network(torch.from_numpy(picture).to(device)).cpu().numpy()
    )
    return answer


def _to_order(
    points: Float[np.ndarray, "17 3"], image: UInt8[np.ndarray, "H W 3"], order: JointSet
) -> Float[np.ndarray, "K 3"]:
    """The points in another joint set, those outside the photo and those not found as zeros."""
    edge = np.array([image.shape[1] - 1, image.shape[0] - 1])
    inside: Bool[np.ndarray, " 17"] = np.all((points[:, :2] >= 0) & (points[:, :2] <= edge), axis=1)
    row_of = {name: row for row, name in enumerate(find_joint_set("coco17").names)}
    keypoints = np.zeros((len(order), 3))
    for index, name in enumerate(order.names):
        row = row_of.get(name)
        if row is not None and inside[row]:
            keypoints[index] = points[row]
    return keypoints
