"""What the forms of the direct fit agree on: torch's, the native one's, and that of serving.

Numbers, names and places alone, without torch; the formulas are in ``ops.map_reference`` (torch,
the oracle), ``csrc/math`` and ``csrc/cpu/simd`` (native) and ``serving.fitting`` (numpy).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from eft_fast.conventions import NUM_BETAS, NUM_JOINTS
from eft_fast.keypoints import JOINT_SETS

#: Where each part of a body lies among its 85 numbers about an answer.
POSE: Final = slice(0, 3 * NUM_JOINTS)
BETAS: Final = slice(POSE.stop, POSE.stop + NUM_BETAS)
SCALE: Final = BETAS.stop
SHIFT: Final = slice(SCALE + 1, SCALE + 3)
NUM_STATE: Final = SHIFT.stop

#: Shoulders, elbows, wrists, hips, knees and ankles among the 24 kinematic joints, which every body
#: has, whatever keypoints it knows.
LIMB_JOINTS: Final = (16, 17, 18, 19, 20, 21, 1, 2, 4, 5, 7, 8)
#: Smallest frame, crop units; below it a collapsed answer would divide by nothing.
MIN_FRAME: Final = 0.05
#: Smallest camera scale: the logarithm needs a positive one.
MIN_SCALE: Final = 1e-3

#: Below this squared angle the series of sin, cos and log are used.
SMALL_ANGLE: Final = 1e-4
#: First lambda of Levenberg-Marquardt; what a failed step multiplies it by, and a good, fair, poor
#: one; the gain ratios (true decrease over predicted) that separate those; its range.
DAMPING: Final = 0.1
FAILED: Final = 4.0
GOOD, FAIR, POOR = 0.3, 1.0, 2.0
GOOD_GAIN, FAIR_GAIN = 0.75, 0.25
DAMPING_RANGE: Final = (1e-9, 1e10)
#: Largest change of log s in one step.
MAX_SCALE_STEP: Final = 1.0

_PLACE: Final = {name: place for place, name in enumerate(JOINT_SETS["smpl24"].names)}
#: Bones that are flipped, from the joint that turns them to their other end. A flipped trunk was
#: tried and never won (docs/map.md).
BONES: Final = tuple(
    (_PLACE[side + joint], _PLACE[side + end])
    for side in "lr"
    for joint, end in (("sho", "elb"), ("elb", "wri"), ("hip", "kne"), ("kne", "ank"))
)
#: Half a turn about the body's own vertical.
HALF_TURN: Final = (-1.0, 1.0, -1.0)
#: Part of a bone's length that its picture must have for its direction in the picture to count.
SHORTEST: Final = 1e-6

#: Fewest given keypoints that a network which reads keypoints is shown. Its errors are known for
#: people with more.
MIN_READ: Final = 4

#: Points of a limb that are exchanged together.
ARM: Final = ("elb", "wri")
LEG: Final = ("kne", "ank")
#: Median of the squared length of two independent standard Gaussian numbers, 2 ln 2.
GAUSSIAN_MEDIAN: Final = 1.386

#: The radius that holds 68 % of true joints over the root of the trace of their covariance, at
#: tension 1, and how it grows with the tension; tensions between which that was measured.
SIGMA_SCALE: Final = 1.29
SIGMA_POWER: Final = 0.25
TENSIONS: Final = (0.05, 10.0)


def limb_pairs(names: Sequence[str], limb: Sequence[str]) -> list[tuple[int, int]]:
    """Places of the left and the right point of each joint of a limb, as far as a set has them.

    Of ``spin49`` each joint may stand twice, in OpenPose's block and in the other.

    Args:
        names: Of the points of a set.
        limb: ``ARM`` or ``LEG``.
    """
    places = {name: place for place, name in enumerate(names)}
    return [
        (places[f"{block}l{joint}"], places[f"{block}r{joint}"])
        for block in ("", "op_")
        for joint in limb
        if f"{block}l{joint}" in places and f"{block}r{joint}" in places
    ]
