"""People and their keypoints in a plain photo, around two networks, without torch.

One network draws boxes around people in the whole photo (``person_boxes``), the other finds the
keypoints in each box (``person_keypoints``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from eft_fast.imaging.crop import check_rgb
from eft_fast.keypoints import JointSet
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.person_boxes import find_boxes
from eft_fast.person_keypoints import CROP_FACTOR, keypoints_in_boxes

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, UInt8

_COCO: Final = "coco17"


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


@dataclass(frozen=True, eq=False)
class SearchNetworks:
    """Two networks, in whatever runtime.

    Attributes:
        boxes: See ``person_boxes.find_boxes``.
        keypoints: See ``person_keypoints.keypoints_in_boxes``; of the joint set ``coco17``.
        size: Side of the crops of the second, in pixels.
        smaller: Sides of the crops of small people; see ``person_keypoints.keypoints_in_boxes``.
        batch: Crops that it takes at once.
        crop_factor: Side of the crop over the longer side of the box.
    """

    boxes: Callable[[UInt8[np.ndarray, "1 h w 3"]], Float32[np.ndarray, "1 N 6"]]
    keypoints: Callable[[UInt8[np.ndarray, "B S S 3"]], Float32[np.ndarray, "B 17 3"]]
    size: int
    smaller: Sequence[Sequence[float]] = ()
    batch: int = 1
    crop_factor: float = CROP_FACTOR


def search_people(
    image: UInt8[np.ndarray, "H W 3"],
    networks: SearchNetworks,
    joint_set: str | JointSet = _COCO,
    *,
    who: str = "search_people",
) -> list[Detection]:
    """Find the people in a photo, the surest first.

    Args:
        image: RGB photo, as ``imaging.load_image`` returns it.
        networks: What looks at it.
        joint_set: Order of the returned keypoints. Those of COCO are matched by name; joints that
            are not among them get no point.
        who: Stands at the head of errors.

    Raises:
        TypeError: If the image is not an 8-bit array.
        ValueError: If the image is not RGB or over 15,000 pixels wide or high, or the joint set is
            unknown.
    """
    check_rgb(image, who)
    order = find_joint_set(joint_set)
    boxes = find_boxes(image, networks.boxes)
    points = keypoints_in_boxes(
        image,
        boxes[:, :4],
        networks.keypoints,
        size=networks.size,
        smaller=networks.smaller,
        crop_factor=networks.crop_factor,
        batch=networks.batch,
        who=who,
    )
    return [
        Detection(_to_order(each, image, order), box[:4], float(box[4]), order.name)
        for box, each in zip(boxes, points, strict=True)
    ]


def _to_order(
    points: Float[np.ndarray, "17 3"], image: UInt8[np.ndarray, "H W 3"], order: JointSet
) -> Float[np.ndarray, "K 3"]:
    """The points in another joint set, those outside the photo and those not found as zeros."""
    edge = np.array([image.shape[1] - 1, image.shape[0] - 1])
    inside: Bool[np.ndarray, " 17"] = np.all((points[:, :2] >= 0) & (points[:, :2] <= edge), axis=1)
    row_of = {name: row for row, name in enumerate(find_joint_set(_COCO).names)}
    keypoints = np.zeros((len(order), 3))
    for index, name in enumerate(order.names):
        row = row_of.get(name)
        if row is not None and inside[row]:
            keypoints[index] = points[row]
    return keypoints
