"""Orders that datasets name in their files."""

from __future__ import annotations

import numpy as np
import pytest

from eft_fast.data.joint_names import find_order
from eft_fast.keypoints import ALIASES, JOINT_SETS, joint_set

SIDES = ("left", "right")
COCO = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear",
    *(f"{s}_{p}" for p in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for s in SIDES),
]  # fmt: skip
FEET = [f"{s}_{p}" for s in SIDES for p in ("big_toe", "small_toe", "heel")]
FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
HANDS = [
    name
    for side in SIDES
    for name in (f"{side}_hand_root", *(f"{side}_{f}{n}" for f in FINGERS for n in range(1, 5)))
]
H36M = "hip {0}hip {0}knee {0}foot {1}hip {1}knee {1}foot spine thorax neck/nose head "
AP10K = (
    "left_eye right_eye nose neck root_of_tail left_shoulder left_elbow left_front_paw "
    "right_shoulder right_elbow right_front_paw left_hip left_knee left_back_paw right_hip "
    "right_knee right_back_paw"
)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (COCO, "coco17"),
        (COCO + FEET, "coco23"),
        ([*COCO[5:], "top_head", "neck"], "crowdpose14"),
        ([*COCO[5:], "head", "neck"], "crowdpose14"),
        ([f"{s}_{p}" for ps in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"))
          for s in ("right", "left") for p in ps] + ["head_top", "neck"], "aic14"),
        (["neck", "belly", "face", *(f"{s}_{p}" for p in ("shoulder", "hip", "elbow", "knee",
          "wrist", "ankle") for s in ("right", "left"))], "jhmdb15"),
        ("root left_hip left_knee left_foot right_hip right_knee right_foot spine thorax neck_base "
         "head left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist".split(),
         "h36m17_Jreg"),
        ("Hip RHip RKnee RFoot LHip LKnee LFoot Spine Thorax Neck/Nose Head LShoulder LElbow "
         "LWrist RShoulder RElbow RWrist".split(), "h36m17_rightfirst"),
        ("r_ankle r_knee r_hip l_hip l_knee l_ankle pelvis thorax upper_neck head_top r_wrist "
         "r_elbow r_shoulder l_shoulder l_elbow l_wrist".split(), "mpii16"),
        (["Right ankle", "Right knee", "Right hip", "Left hip", "Left knee", "Left ankle",
          "Right wrist", "Right elbow", "Right shoulder", "Left shoulder", "Left elbow",
          "Left wrist", "Neck", "Head top"], "lsp14"),
        ([*COCO, "head", "neck", "hip",
          *(f"{s}_{p}" for p in ("big_toe", "small_toe", "heel") for s in SIDES)], "halpe26"),
        (["nose", "head_bottom", "head_top", *COCO[3:]], "posetrack17"),
        ("Nose LEye REye LEar REar LShoulder RShoulder LElbow RElbow LWrist RWrist LHip RHip LKnee "
         "RKnee LAnkle RAnkle UpperNeck HeadTop LBigToe LSmallToe LHeel RBigToe RSmallToe "
         "RHeel".split(), "op25b"),
    ],
)  # fmt: skip
def test_orders_of_datasets(names: list[str], expected: str) -> None:
    order = find_order(names)
    assert (order.joint_set, order.is_reordered) == (expected, False)
    points = np.arange(3.0 * len(names)).reshape(-1, 3)
    np.testing.assert_array_equal(order.apply(points), points)


@pytest.mark.parametrize("name", sorted(set(JOINT_SETS) - {"spin49"}))
def test_our_own_names_in_any_order(name: str) -> None:
    order = joint_set(name)
    assert find_order(list(order.names)).joint_set == name
    shuffled = np.random.default_rng(0).permutation(len(order))
    found = find_order([order.names[i] for i in shuffled])
    points = np.arange(3.0 * len(order)).reshape(-1, 3)
    if found.joint_set == name:  # Sets with the same joints are one to whoever names them.
        np.testing.assert_array_equal(found.apply(points[shuffled]), points)
    else:
        assert set(order.names) <= set(joint_set(found.joint_set).names)


@pytest.mark.parametrize("mark", ["{side}_{part}", "{part}.{side}", "{Side}{Part}", "{s}-{part}"])
def test_ways_to_write_a_joint(mark: str) -> None:
    names = ["nose"]
    for name in COCO[1:]:
        side, part = name.split("_")
        names.append(
            mark.format(side=side, part=part, Side=side.title(), Part=part.title(), s=side[0])
        )
    assert find_order(names).joint_set == "coco17"


def test_fewer_and_more_joints() -> None:
    """Missing joints are not labelled; points of faces and hands are left out."""
    limbs = find_order(COCO[5:])
    points = np.arange(36.0).reshape(12, 3)
    there = limbs.apply(points)
    place = {joint: i for i, joint in enumerate(joint_set(limbs.joint_set).names)}
    np.testing.assert_array_equal(there[place["lsho"]], points[0])
    np.testing.assert_array_equal(there[place["rank"]], points[11])
    assert np.count_nonzero(there.any(axis=1)) == 12
    whole = find_order([*COCO, *FEET, *(f"face-{i}" for i in range(68)), *HANDS])
    assert whole.joint_set == "coco23"
    points = np.ones((133, 3)) * np.arange(133)[:, None]
    np.testing.assert_array_equal(whole.apply(points), points[:23])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (AP10K.split(), "named root_of_tail, left_front_paw, .* are no joints of a joint set"),
        ([*COCO[:16], "tail"], "the keypoints named tail are no joints"),
        (["nose"] * 17, "are named nose more than once"),
        ([1, None, [2]], "named 1, None, .* are no joints"),
        ([f"hand{i}" for i in range(21)], "are no joints of a joint set"),
        ([*COCO[:16], "x" * 5000], "are no joints"),
    ],
)
def test_names_that_are_no_persons(names: list[object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        find_order(names)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "name", ["COCO17", "coco", "BODY_25", "Body 25B", "mediapipe", "mpii", "lsp", "coco_wholebody"]
)
def test_sets_under_their_usual_names(name: str) -> None:
    assert joint_set(name).name in JOINT_SETS


@pytest.mark.parametrize("name", ["h36m", "Human3.6M"])
def test_names_of_several_sets_say_which(name: str) -> None:
    with pytest.raises(ValueError, match="h36m17_Jreg"):
        joint_set(name)


def test_aliases_lead_to_sets() -> None:
    assert set(ALIASES.values()) <= set(JOINT_SETS)
