"""Keypoint sets: names, order, left/right pairs, and the way from each set to the 49 of fitting.

Two orders are the meeting points. **J24** is the annotation block of SPIN and EFT (LSP's 14 joints,
two of MPII, three of Human3.6M, five of the face). **spin49** is OpenPose's 25 followed by J24;
fits are measured on it. Every other set says where its joints go in both. Where a joint only stands
for its target, and is not the same point of the body, ``JointSet.approx`` says so by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from eft_fast.errors import did_you_mean

#: A joint without a counterpart in the target order.
NO_JOINT: Final = -1

#: Limbs as pairs of joint names; a set draws those of which it has both ends.
_LIMBS: Final = (
    ("lsho", "lelb"), ("lelb", "lwri"), ("rsho", "relb"), ("relb", "rwri"),
    ("lhip", "lkne"), ("lkne", "lank"), ("rhip", "rkne"), ("rkne", "rank"),
    ("lhip", "rhip"), ("lsho", "rsho"), ("lsho", "lhip"), ("rsho", "rhip"),
    ("neck", "headtop"), ("neck", "head"), ("neck", "nose"), ("nose", "leye"), ("nose", "reye"),
    ("leye", "lear"), ("reye", "rear"), ("lank", "lheel"), ("lank", "lbtoe"), ("lank", "lfoot"),
    ("rank", "rheel"), ("rank", "rbtoe"), ("rank", "rfoot"),
)  # fmt: skip


@dataclass(frozen=True)
class JointSet:
    """An order of joints.

    Attributes:
        name: Name of the set.
        names: Name of each joint; ``l`` and ``r`` in front mark the person's own left and right.
        flip: Joint that takes each place when the picture is mirrored.
        to_j24: Place of each joint in J24, or -1.
        to_op25: Place of each joint in OpenPose's 25, or -1. Only points that J24 lacks (feet) and
            OpenPose's own sets go there.
        approx: Joints that only stand for their target, and how they differ from it.
        body_set: Set of its first joints, where the others (face, hands) have no place on a body;
            fits are made of these. Empty: all joints have one.
    """

    name: str
    names: tuple[str, ...]
    flip: tuple[int, ...]
    to_j24: tuple[int, ...]
    to_op25: tuple[int, ...]
    approx: Mapping[str, str] = field(default_factory=dict, compare=False)
    body_set: str = ""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def unused(self) -> tuple[str, ...]:
        """Joints without a place among the 49 of fitting: EFT and SMPLify do not see them."""
        places = zip(self.names, self.to_j24, self.to_op25, strict=True)
        return tuple(name for name, j24, op25 in places if j24 == op25 == NO_JOINT)

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Pairs of joint indices to draw as limbs."""
        place = {name: index for index, name in enumerate(self.names)}
        return tuple((place[a], place[b]) for a, b in _LIMBS if a in place and b in place)


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split())


_J24_NAMES: Final = (
    "rank rkne rhip lhip lkne lank rwri relb rsho lsho lelb lwri neck headtop "
    "pelvis thorax spine jaw head nose leye reye lear rear"
)
_J24_FLIP: Final = "5 4 3 2 1 0 11 10 9 8 7 6 12 13 14 15 16 17 18 19 21 20 23 22"
_OP25_NAMES: Final = (
    "nose neck rsho relb rwri lsho lelb lwri pelvis rhip rkne rank lhip lkne lank "
    "reye leye rear lear lbtoe lstoe lheel rbtoe rstoe rheel"
)
_OP25_FLIP: Final = "0 1 5 6 7 2 3 4 8 12 13 14 9 10 11 16 15 18 17 22 23 24 19 20 21"
_OP25_TO_J24: Final = "19 12 8 7 6 9 10 11 14 2 1 0 3 4 5 21 20 23 22 -1 -1 -1 -1 -1 -1"
_COCO17_FLIP: Final = "0 2 1 4 3 6 5 8 7 10 9 12 11 14 13 16 15"
_COCO17_TO_J24: Final = "19 20 21 22 23 9 8 10 7 11 6 3 2 4 1 5 0"
_H36M17_FLIP: Final = "0 4 5 6 1 2 3 7 8 9 10 14 15 16 11 12 13"
_SMPL24_NAMES: Final = (
    "pelvis lhip rhip spine1 lkne rkne spine2 lank rank spine3 lfoot rfoot neck lcol rcol head "
    "lsho rsho lelb relb lwri rwri lhand rhand"
)
_SMPL24_FLIP: Final = "0 2 1 3 5 4 6 8 7 9 11 10 12 14 13 15 17 16 19 18 21 20 23 22"
_SMPL24_TO_J24: Final = "14 3 2 -1 4 1 -1 5 0 -1 -1 -1 12 -1 -1 18 9 8 10 7 11 6 -1 -1"

# name: (joint names, flip, J24 place).
_TABLES: Final[dict[str, tuple[str, str, str]]] = {
    "j24": (_J24_NAMES, _J24_FLIP, " ".join(map(str, range(24)))),
    "coco17": (
        "nose leye reye lear rear lsho rsho lelb relb lwri rwri lhip rhip lkne rkne lank rank",
        _COCO17_FLIP,
        _COCO17_TO_J24,
    ),
    "coco23": (
        "nose leye reye lear rear lsho rsho lelb relb lwri rwri lhip rhip lkne rkne lank rank "
        "lbtoe lstoe lheel rbtoe rstoe rheel",
        _COCO17_FLIP + " 20 21 22 17 18 19",
        _COCO17_TO_J24 + " -1" * 6,
    ),
    "mpii16": (
        "rank rkne rhip lhip lkne lank pelvis thorax neck headtop rwri relb rsho lsho lelb lwri",
        "5 4 3 2 1 0 6 7 8 9 15 14 13 12 11 10",
        "0 1 2 3 4 5 14 15 12 13 6 7 8 9 10 11",
    ),
    "lsp14": (
        "rank rkne rhip lhip lkne lank rwri relb rsho lsho lelb lwri neck headtop",
        "5 4 3 2 1 0 11 10 9 8 7 6 12 13",
        "0 1 2 3 4 5 6 7 8 9 10 11 12 13",
    ),
    "penn13": (
        "head lsho rsho lelb relb lwri rwri lhip rhip lkne rkne lank rank",
        "0 2 1 4 3 6 5 8 7 10 9 12 11",
        "18 9 8 10 7 11 6 3 2 4 1 5 0",
    ),
    # As EFT reads them: left and right exchanged against the names of the dataset.
    "penn13_eft": (
        "head rsho lsho relb lelb rwri lwri rhip lhip rkne lkne rank lank",
        "0 2 1 4 3 6 5 8 7 10 9 12 11",
        "18 8 9 7 10 6 11 2 3 1 4 0 5",
    ),
    "posetrack17": (
        "nose neck headtop lear rear lsho rsho lelb relb lwri rwri lhip rhip lkne rkne lank rank",
        "0 1 2 4 3 6 5 8 7 10 9 12 11 14 13 16 15",
        "19 12 13 22 23 9 8 10 7 11 6 3 2 4 1 5 0",
    ),
    # Of 2017, before PoseTrack took COCO's order.
    "posetrack15": (
        "rank rkne rhip lhip lkne lank rwri relb rsho lsho lelb lwri neck nose headtop",
        "5 4 3 2 1 0 11 10 9 8 7 6 12 13 14",
        "0 1 2 3 4 5 6 7 8 9 10 11 12 19 13",
    ),
    "ochuman19": (
        "rsho relb rwri lsho lelb lwri rhip rkne rank lhip lkne lank headtop neck "
        "rear lear nose reye leye",
        "3 4 5 0 1 2 9 10 11 6 7 8 12 13 15 14 16 18 17",
        "8 7 6 9 10 11 2 1 0 3 4 5 13 12 23 22 19 21 20",
    ),
    "op25": (_OP25_NAMES, _OP25_FLIP, _OP25_TO_J24),
    "op18": (
        "nose neck rsho relb rwri lsho lelb lwri rhip rkne rank lhip lkne lank reye leye rear lear",
        "0 1 5 6 7 2 3 4 11 12 13 8 9 10 15 14 17 16",
        "19 12 8 7 6 9 10 11 2 1 0 3 4 5 21 20 23 22",
    ),
    "op25b": (
        "nose leye reye lear rear lsho rsho lelb relb lwri rwri lhip rhip lkne rkne lank rank "
        "neck headtop lbtoe lstoe lheel rbtoe rstoe rheel",
        _COCO17_FLIP + " 17 18 22 23 24 19 20 21",
        _COCO17_TO_J24 + " 12 13" + " -1" * 6,
    ),
    "halpe26": (
        "nose leye reye lear rear lsho rsho lelb relb lwri rwri lhip rhip lkne rkne lank rank "
        "headtop neck pelvis lbtoe rbtoe lstoe rstoe lheel rheel",
        _COCO17_FLIP + " 17 18 19 21 20 23 22 25 24",
        _COCO17_TO_J24 + " 13 12 14" + " -1" * 6,
    ),
    "crowdpose14": (
        "lsho rsho lelb relb lwri rwri lhip rhip lkne rkne lank rank headtop neck",
        "1 0 3 2 5 4 7 6 9 8 11 10 12 13",
        "9 8 10 7 11 6 3 2 4 1 5 0 13 12",
    ),
    "aic14": (
        "rsho relb rwri lsho lelb lwri rhip rkne rank lhip lkne lank headtop neck",
        "3 4 5 0 1 2 9 10 11 6 7 8 12 13",
        "8 7 6 9 10 11 2 1 0 3 4 5 13 12",
    ),
    "jhmdb15": (
        "neck belly head rsho lsho rhip lhip relb lelb rkne lkne rwri lwri rank lank",
        "0 1 2 4 3 6 5 8 7 10 9 12 11 14 13",
        "12 -1 18 8 9 2 3 7 10 1 4 6 11 0 5",
    ),
    "panoptic19": (
        "neck nose pelvis lsho lelb lwri lhip lkne lank rsho relb rwri rhip rkne rank "
        "leye lear reye rear",
        "0 1 2 9 10 11 12 13 14 3 4 5 6 7 8 17 18 15 16",
        "12 19 14 9 10 11 3 4 5 8 7 6 2 1 0 20 22 21 23",
    ),
    "h36m17_rightfirst": (
        "pelvis rhip rkne rank lhip lkne lank spine neck jaw head lsho lelb lwri rsho relb rwri",
        _H36M17_FLIP,
        "14 2 1 0 3 4 5 16 12 17 18 9 10 11 8 7 6",
    ),
    "h36m17_Jreg": (
        "pelvis lhip lkne lank rhip rkne rank spine neck jaw head lsho lelb lwri rsho relb rwri",
        _H36M17_FLIP,
        "14 3 4 5 2 1 0 16 12 17 18 9 10 11 8 7 6",
    ),
    "mpiinf28": (
        "spine3 spine4 spine2 spine pelvis neck jaw head lclav lsho lelb lwri lhand "
        "rclav rsho relb rwri rhand lhip lkne lank lfoot ltoe rhip rkne rank rfoot rtoe",
        "0 1 2 3 4 5 6 7 13 14 15 16 17 8 9 10 11 12 23 24 25 26 27 18 19 20 21 22",
        "-1 -1 -1 16 14 12 17 18 -1 9 10 11 -1 -1 8 7 6 -1 3 4 5 -1 -1 2 1 0 -1 -1",
    ),
    "mpiinf17test": (
        "head neck rsho relb rwri lsho lelb lwri rhip rkne rank lhip lkne lank pelvis spine jaw",
        "0 1 5 6 7 2 3 4 11 12 13 8 9 10 14 15 16",
        "18 12 8 7 6 9 10 11 2 1 0 3 4 5 14 16 17",
    ),
    "smpl24": (_SMPL24_NAMES, _SMPL24_FLIP, _SMPL24_TO_J24),
    "smpl45": (
        _SMPL24_NAMES + " nose reye leye rear lear lbtoe lstoe lheel rbtoe rstoe rheel "
        "lthumb lindex lmiddle lring lpinky rthumb rindex rmiddle rring rpinky",
        _SMPL24_FLIP + " 24 26 25 28 27 32 33 34 29 30 31 40 41 42 43 44 35 36 37 38 39",
        _SMPL24_TO_J24 + " 19 21 20 23 22" + " -1" * 16,
    ),
    "mp33": (
        "nose leyein leye leyeout reyein reye reyeout lear rear lmouth rmouth lsho rsho lelb relb "
        "lwri rwri lpinky rpinky lindex rindex lthumb rthumb lhip rhip lkne rkne lank rank "
        "lheel rheel lbtoe rbtoe",
        "0 4 5 6 1 2 3 8 7 10 9 12 11 14 13 16 15 18 17 20 19 22 21 24 23 26 25 28 27 30 29 32 31",
        "19 -1 20 -1 -1 21 -1 22 23 -1 -1 9 8 10 7 11 6 -1 -1 -1 -1 -1 -1 3 2 4 1 5 0 -1 -1 -1 -1",
    ),
}

_OWN_HIPS: Final = "inner joint centre, while J24's hip is an annotator's point"
_PICTURE_HIP: Final = "annotated by another guideline than LSP's hip"
_MID_HIP: Final = "midpoint of the hips, while J24's pelvis is MPII's"
_MID_SHOULDER: Final = "midpoint of the shoulders, while J24's neck is LSP's, higher up"

_APPROX: Final[dict[str, dict[str, str]]] = {
    "coco17": {"lhip": _PICTURE_HIP, "rhip": _PICTURE_HIP},
    "coco23": {"lhip": _PICTURE_HIP, "rhip": _PICTURE_HIP},
    "mpii16": {"neck": "MPII's upper neck, while J24's neck is LSP's"},
    "penn13_eft": {"head": "a point on the head, while J24's is Human3.6M's head"},
    "penn13": {"head": "a point on the head, while J24's is Human3.6M's head"},
    "posetrack15": {"neck": "bottom of the head, while J24's neck is LSP's"},
    "posetrack17": {"neck": "bottom of the head, while J24's neck is LSP's"},
    "op25": {"neck": _MID_SHOULDER, "pelvis": _MID_HIP, "lhip": _PICTURE_HIP, "rhip": _PICTURE_HIP},
    "op18": {"neck": _MID_SHOULDER, "lhip": _PICTURE_HIP, "rhip": _PICTURE_HIP},
    "op25b": {
        "neck": "upper neck as of MPII, while J24's neck is LSP's",
        "lhip": _PICTURE_HIP,
        "rhip": _PICTURE_HIP,
    },
    "halpe26": {
        "headtop": "Halpe's head, the crown by another guideline than LSP's",
        "neck": _MID_SHOULDER,
        "pelvis": _MID_HIP,
        "lhip": _PICTURE_HIP,
        "rhip": _PICTURE_HIP,
    },
    "crowdpose14": {
        "neck": "annotated by another guideline than LSP's neck",
        "lhip": _PICTURE_HIP,
        "rhip": _PICTURE_HIP,
    },
    "aic14": {
        "neck": "annotated by another guideline than LSP's neck",
        "lhip": _PICTURE_HIP,
        "rhip": _PICTURE_HIP,
    },
    "jhmdb15": {
        "neck": "joint of a puppet model, while J24's neck is LSP's",
        "head": "middle of the face, while J24's is Human3.6M's head",
        "lhip": "joint of a puppet model, while J24's hip is LSP's",
        "rhip": "joint of a puppet model, while J24's hip is LSP's",
    },
    "panoptic19": {"neck": _MID_SHOULDER, "pelvis": _MID_HIP, "lhip": _OWN_HIPS, "rhip": _OWN_HIPS},
    "h36m17_rightfirst": {
        "pelvis": _MID_HIP,
        "neck": "motion-capture thorax, while J24's neck is LSP's",
        "lhip": _OWN_HIPS,
        "rhip": _OWN_HIPS,
    },
    "h36m17_Jreg": {
        "pelvis": _MID_HIP,
        "neck": "regressed thorax, while J24's neck is LSP's",
        "lhip": _OWN_HIPS,
        "rhip": _OWN_HIPS,
    },
    "mpiinf28": {"pelvis": _MID_HIP, "lhip": _OWN_HIPS, "rhip": _OWN_HIPS},
    "mpiinf17test": {
        "head": "the test set's head; SPIN maps it to J24's jaw",
        "pelvis": _MID_HIP,
        "lhip": _OWN_HIPS,
        "rhip": _OWN_HIPS,
    },
    "smpl24": {
        "pelvis": "kinematic root, while J24's pelvis is MPII's",
        "lhip": _OWN_HIPS,
        "rhip": _OWN_HIPS,
        "neck": "base of the neck, while J24's neck is LSP's",
        "head": "kinematic head joint, while J24's is Human3.6M's head",
    },
    "mp33": {
        "lhip": _PICTURE_HIP,
        "rhip": _PICTURE_HIP,
        "lbtoe": "tip of the index toe, while OpenPose's is the big toe",
        "rbtoe": "tip of the index toe, while OpenPose's is the big toe",
    },
}
_APPROX["smpl45"] = _APPROX["smpl24"]

#: Sets of OpenPose itself, and feet, which J24 lacks.
_TO_OP25: Final[dict[str, dict[str, int]]] = {
    "op25": {name: index for index, name in enumerate(_OP25_NAMES.split())},
    "op18": {
        name: index
        for index, name in enumerate(_OP25_NAMES.split())
        if name in _TABLES["op18"][0].split()
    },
    # The neck of BODY_25 is another point than that of BODY_25B.
    "op25b": {
        name: index
        for index, name in enumerate(_OP25_NAMES.split())
        if name in _TABLES["op25b"][0].split() and name != "neck"
    },
}
_FEET: Final = {"lbtoe": 19, "lstoe": 20, "lheel": 21, "rbtoe": 22, "rstoe": 23, "rheel": 24}


def _make_set(name: str) -> JointSet:
    names, flip, to_j24 = _TABLES[name]
    words = tuple(names.split())
    op_places = _TO_OP25.get(name, _FEET)
    to_op25 = tuple(op_places.get(word, NO_JOINT) for word in words)
    return JointSet(name, words, _ints(flip), _ints(to_j24), to_op25, _APPROX.get(name, {}))


def _make_spin49() -> JointSet:
    """OpenPose's 25, marked ``op_``, then J24 under its own names."""
    names = tuple(f"op_{name}" for name in _OP25_NAMES.split()) + tuple(_J24_NAMES.split())
    flip = _ints(_OP25_FLIP) + tuple(25 + index for index in _ints(_J24_FLIP))
    to_j24 = (NO_JOINT,) * 25 + tuple(range(24))
    return JointSet("spin49", names, flip, to_j24, tuple(range(25)) + (NO_JOINT,) * 24)


#: The 68 points of a face that mirror each other, the person's right one first.
_FACE_PAIRS: Final = (
    *((i, 16 - i) for i in range(8)), *((i, 43 - i) for i in range(17, 22)),
    (31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46),
    (48, 54), (49, 53), (50, 52), (58, 56), (59, 55), (60, 64), (61, 63), (67, 65),
)  # fmt: skip
_NUM_FACE, _NUM_HAND = 68, 21


def _make_whole_body(name: str, body_set: str) -> JointSet:
    """A body set, then 68 points of the face and 21 of the left and the right hand."""
    body = _make_set(body_set)
    face = [f"face{i}" for i in range(_NUM_FACE)]
    for right, left in _FACE_PAIRS:
        face[right], face[left] = f"rface{right}", f"lface{right}"
    hands = [f"{side}hand{i}" for side in "lr" for i in range(_NUM_HAND)]
    names = (*body.names, *face, *hands)
    place = {joint: index for index, joint in enumerate(names)}
    mirrored = {"l": "r", "r": "l"}
    others = names[len(body) :]
    flip = tuple(
        place.get(mirrored.get(joint[0], "") + joint[1:], place[joint]) for joint in others
    )
    nowhere = (NO_JOINT,) * len(others)
    return JointSet(
        name, names, body.flip + flip, body.to_j24 + nowhere, body.to_op25 + nowhere, body.approx,
        body_set,
    )  # fmt: skip


#: Every joint set by name.
JOINT_SETS: Final[Mapping[str, JointSet]] = MappingProxyType(
    {name: _make_set(name) for name in _TABLES}
    | {
        "wholebody133": _make_whole_body("wholebody133", "coco23"),
        "halpe136": _make_whole_body("halpe136", "halpe26"),
        "spin49": _make_spin49(),
    }
)
#: Other names in use for the same sets; capitals, and - or spaces for _, make no difference.
ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "coco": "coco17",
        "coco_foot": "coco23",
        "wholebody": "wholebody133",
        "coco_wholebody": "wholebody133",
        "dwpose": "wholebody133",
        "mpii": "mpii16",
        "lsp": "lsp14",
        "lspet": "lsp14",
        "penn_action": "penn13",
        "posetrack": "posetrack17",
        "posetrack18": "posetrack17",
        "ochuman": "ochuman19",
        "crowdpose": "crowdpose14",
        "aic": "aic14",
        "ai_challenger": "aic14",
        "jhmdb": "jhmdb15",
        "halpe": "halpe26",
        "openpose": "op25",
        "openpose25": "op25",
        "body25": "op25",
        "body_25": "op25",
        "body25b": "op25b",
        "body_25b": "op25b",
        "openpose18": "op18",
        "panoptic": "panoptic19",
        "mediapipe": "mp33",
        "mediapipe33": "mp33",
        "blazepose": "mp33",
        "blazepose33": "mp33",
        "smpl": "smpl24",
        "spin24": "j24",
    }
)
#: What to do with sets that are not here under one name.
_HINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "h36m": "the right leg first is h36m17_rightfirst, the left leg first h36m17_Jreg",
        "h36m17": "the right leg first is h36m17_rightfirst, the left leg first h36m17_Jreg",
        "human3.6m": "the right leg first is h36m17_rightfirst, the left leg first h36m17_Jreg",
        "body_135": "pass the first 25 of its 135 keypoints as op25b",
        "mpi_inf_3dhp": "its 28 are mpiinf28, the 17 of the test set mpiinf17test",
    }
)

spin49_flip: Final = JOINT_SETS["spin49"].flip
#: SPIN49's sources in the list of 54: SMPL45, then nine landmarks (below). From EFT's joint map.
SPIN49_SOURCES: Final = (
    24, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34,
    8, 5, 45, 46, 4, 7, 21, 19, 17, 16, 18, 20, 47, 48, 49, 50, 51, 52, 53, 24, 26, 25, 28, 27,
)  # fmt: skip
#: Names of the sources 45 to 53: landmarks that are regressed from vertices.
LANDMARKS: Final = (
    "rhip_lsp", "lhip_lsp", "neck_lsp", "headtop_lsp", "pelvis_mpii", "thorax_mpii",
    "spine_h36m", "jaw_h36m", "head_h36m",
)  # fmt: skip
#: Vertices behind the joints 24 to 44 of smpl45, in SMPL's vertex order.
SMPL45_VERTICES: Final = (
    332, 6260, 2800, 4071, 583, 3216, 3226, 3387, 6617, 6624, 6787,
    2746, 2319, 2445, 2556, 2673, 6191, 5782, 5905, 6016, 6133,
)  # fmt: skip


def joint_set(name: str | JointSet) -> JointSet:
    """Look a joint set up by its name or by one of ``ALIASES``.

    Raises:
        ValueError: If there is no such set; the message names the closest ones.
    """
    if isinstance(name, JointSet):
        return name
    word = str(name).strip().lower().replace("-", "_").replace(" ", "_")
    key = _BY_LOWER_NAME.get(ALIASES.get(word, word))
    if key is not None:
        return JOINT_SETS[key]
    hint = _HINTS.get(word)
    hint = f"; {hint}" if hint else did_you_mean(name, (*JOINT_SETS, *ALIASES))
    hint = hint or f"; use one of {', '.join(JOINT_SETS)}"
    raise ValueError(f"joint_set: expected the name of a joint set, got {name!r}{hint}")


def to_body_set(name: str | JointSet) -> JointSet:
    """The set that fits are made of: the set, or its first joints if the others have no place.

    WholeBody's 133 give ``coco23``, Halpe's 136 ``halpe26``: SMPL has no points for the face and
    the hands.
    """
    order = _lookup(name)
    return JOINT_SETS[order.body_set] if order.body_set else order


_BY_LOWER_NAME: Final = {name.lower(): name for name in JOINT_SETS}
# Functions below take an argument called joint_set.
_lookup = joint_set


def to_spin49(keypoints: npt.ArrayLike, joint_set: str | JointSet) -> npt.NDArray[Any]:
    """Place keypoints in the 49 slots of fitting; slots that get nothing have confidence 0.

    The arms, legs and head go to the J24 block, which fits use by default. OpenPose's own sets, and
    feet of other sets, also fill the OpenPose block, which counts only when its weight is above 0.

    Args:
        keypoints: ``[..., K, D]``: coordinates, and confidence last (D = 3 in pixels, 4 in space).
            A point with a NaN in it counts as not labelled.
        joint_set: Order of the K keypoints.

    Returns:
        ``[..., 49, D]`` of the input's floating type; points with confidence 0 are all zeros.
    """
    order = _lookup(joint_set)
    points = _check_keypoints("to_spin49", keypoints, order)
    points = np.where(is_labelled(points)[..., None], points, points.dtype.type(0))
    result = np.zeros((*points.shape[:-2], 49, points.shape[-1]), points.dtype)
    for source, (op25, j24) in enumerate(zip(order.to_op25, order.to_j24, strict=True)):
        if op25 != NO_JOINT:
            result[..., op25, :] = points[..., source, :]
        if j24 != NO_JOINT:
            result[..., 25 + j24, :] = points[..., source, :]
    return result


def is_labelled(keypoints: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell which points ``[..., K, D]`` are finite and have a confidence above 0."""
    labelled: npt.NDArray[np.bool_] = np.isfinite(keypoints).all(axis=-1)
    return labelled & (keypoints[..., -1] > 0)


def _check_keypoints(who: str, keypoints: npt.ArrayLike, order: JointSet) -> npt.NDArray[Any]:
    points = np.asarray(keypoints)
    if points.dtype.kind not in "fiu":
        raise TypeError(f"{who}: keypoints must be an array of numbers, got {points.dtype}")
    if points.ndim < 2 or points.shape[-2] != len(order) or points.shape[-1] < 3:
        raise ValueError(
            f"{who}: keypoints must be [..., {len(order)}, 3] for {order.name}, "
            f"got {list(points.shape)}; name the right joint_set"
        )
    return points if points.dtype.kind == "f" else points.astype(np.float32)
