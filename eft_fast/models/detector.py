"""People and their keypoints from a plain photo, for users who bring none.

YOLOX-nano draws boxes around the people in the whole photo, MoveNet Thunder finds the keypoints in
each box; both with the published weights. On 14 open COCO val2017 photos, on which nothing was
chosen, 47 of the 49 labelled people above 64 pixels are found, and all 31 with ten keypoints or
more and 8,000 square pixels, one of them by a box that meets the label by less than half. 79.6 % of
the keypoints of those 31 are off by less than a tenth of the root of the box area, 68.7 % by less
than a twentieth, those of that one counted as wrong; 80.0 and 69.4 % while small people got crops
of 256 pixels, too. ``python -m benchmarks.people LABELS PHOTOS`` prints these figures.

56 boxes above 64 pixels are drawn. Of the nine that meet no label by half, five show people (two
without a label, three whose label reaches elsewhere), one shows a post with a labelled man behind
it once more, and three show nobody: a statue, a pigeon, and a lamp post between two people. On 15
train photos it is five of 48: four people without a label and the upper half of a man once more.
With one ghost among them, no rule against ghosts can be chosen there. Of 27 photos without people
one got a box.

What was tried and is not here, chosen on 15 open train photos. Limits on the keypoints' scores, or
on their products with the box's, keep no more people beside as many ghosts than the box's score
does. Of two boxes with the same keypoints the one that fits them worse was left out: there 46
people were kept with 5 other boxes (43 with 5 without it), but on the val photos 3 of 47 were lost
and no other box. Once more, by another rule: a box of which a surer one covers half, with the
surer one's keypoints (median distance under a tenth of the root of the area), was left out. On the
train photos, their mirror images and their middles all 118 people were kept with 16 of 19 other
boxes; on the val photos 46 of 47 people with 8 of 9. A second look in a box that had been made
larger where keypoints touched the crop's edge found 88 % of the keypoints of 32 people, as the
first does.

People under 32 pixels are left out. What is missed are above all people of whom little is to be
seen: behind others, at the edge, lying, or out of focus. In crowds two people may share a box, and
a box that holds two may get the keypoints of either.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from eft_fast.imaging.crop import check_rgb
from eft_fast.keypoints import JointSet
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.models.base import Regressor
from eft_fast.models.movenet_keypoints import CROPS_AT_ONCE, load_movenet, run_movenet
from eft_fast.models.yolox import YoloxNano, load_published_yolox, to_bgr
from eft_fast.person_keypoints import SMALLER_CROPS
from eft_fast.person_search import Detection, SearchNetworks, search_people

__all__ = ["Detection", "detect_people"]


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
    return search_people(image, shared_networks(device), order, who="detect_people")


@lru_cache(maxsize=2)
def shared_networks(device: torch.device) -> SearchNetworks:
    """The published networks on a device, the same ones at each call."""
    yolox, movenet = load_published_yolox().to(device), load_movenet().to(device)
    return SearchNetworks(
        boxes=lambda picture: run_yolox(yolox, picture),
        keypoints=lambda crops: run_movenet(movenet, crops),
        size=movenet.input_size,
        smaller=SMALLER_CROPS,
        batch=CROPS_AT_ONCE[device.type != "cpu"],
    )


@torch.no_grad()
def run_yolox(
    network: YoloxNano, pictures: UInt8[np.ndarray, "B h w 3"]
) -> Float32[np.ndarray, "B N 6"]:
    """The answer to RGB pictures, on the network's device."""
    weight = network.stem.weight
    bgr = to_bgr(torch.from_numpy(pictures).to(weight.device)).to(weight.dtype)
    answer: Float32[np.ndarray, "B N 6"] = network(bgr).cpu().numpy()
    return answer
