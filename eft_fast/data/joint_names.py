"""The order of keypoints from the names that an annotation file gives them.

Datasets write one joint in many ways (``left_shoulder``, ``LShoulder``, ``l_sho``). Names are read
by their words, then every joint set is tried: one that knows all of them, each once, takes the
keypoints, reordered by name where need be. A name that is no joint of a person is an error: whoever
reads a horse, or a hand, as a person gets a fit that looks right and is not.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eft_fast.data.values import shown
from eft_fast.keypoints import JOINT_SETS, NO_JOINT, JointSet

if TYPE_CHECKING:
    from jaxtyping import Float

#: Joints that come in pairs, as written after "left" or "right" without separators.
_PAIRED: Final = {
    "sho": "sho", "shoulder": "sho", "shldr": "sho",
    "elb": "elb", "elbow": "elb",
    "wri": "wri", "wrist": "wri",
    "hip": "hip", "kne": "kne", "knee": "kne", "ank": "ank", "ankle": "ank",
    "eye": "eye", "ear": "ear", "foot": "foot", "hand": "hand",
    "eyein": "eyein", "eyeinner": "eyein", "eyeout": "eyeout", "eyeouter": "eyeout",
    "mouth": "mouth", "col": "col", "collar": "col", "clav": "clav", "clavicle": "clav",
    "bigtoe": "btoe", "btoe": "btoe", "footindex": "btoe", "smalltoe": "stoe", "stoe": "stoe",
    "heel": "heel", "toe": "toe",
    "thumb": "thumb", "index": "index", "middle": "middle", "ring": "ring", "pinky": "pinky",
}  # fmt: skip
_SINGLE: Final = {
    "nose": "nose", "neck": "neck", "upperneck": "neck", "headbottom": "neck", "bottomhead": "neck",
    "headtop": "headtop", "tophead": "headtop", "topofhead": "headtop", "crown": "headtop",
    "head": "head", "pelvis": "pelvis", "midhip": "pelvis", "hip": "pelvis", "hips": "pelvis",
    "root": "pelvis", "centerhip": "pelvis", "hipcenter": "pelvis", "bodycenter": "pelvis",
    "thorax": "thorax", "spine": "spine", "spine1": "spine1", "spine2": "spine2",
    "spine3": "spine3", "spine4": "spine4", "jaw": "jaw", "belly": "belly",
}  # fmt: skip
#: What a name means in one set only.
_IN_SET: Final = {
    "h36m17_rightfirst": {
        "thorax": "neck", "neckbase": "jaw", "neckhead": "jaw", "nose": "jaw", "necknose": "jaw",
        "lfoot": "lank", "rfoot": "rank", "torso": "spine", "headtop": "head",
    },
    "halpe26": {"head": "headtop"},
    "crowdpose14": {"head": "headtop"},
    "aic14": {"head": "headtop"},
    "ochuman19": {"head": "headtop"},
    "jhmdb15": {"face": "head"},
}  # fmt: skip
_IN_SET["h36m17_Jreg"] = _IN_SET["h36m17_rightfirst"]
#: Points of faces and hands, which no set of ours has: left out where they stand beside a body.
_FACE_OR_HAND: Final = re.compile(
    r"face\d+|[lr]?(hand(root|\d+)?|(thumb|index|middle|ring|pinky|forefinger)(finger)?\d*)"
)
_SHOWN: Final = 6


@dataclass(frozen=True)
class NamedOrder:
    """How the keypoints of a file go into a joint set.

    Attributes:
        joint_set: Name of the set.
        places: Place in the set of each keypoint of the file; -1: left out.
    """

    joint_set: str
    places: tuple[int, ...]

    @property
    def is_reordered(self) -> bool:
        """Whether any keypoint changes its place, or is left out."""
        return self.places != tuple(range(len(self.places)))

    def apply(self, points: Float[np.ndarray, "K 3"]) -> Float[np.ndarray, "J 3"]:
        """Bring keypoints into the order of the set; joints without a keypoint are zero."""
        if not self.is_reordered and len(points) == len(JOINT_SETS[self.joint_set]):
            return points
        places = np.array(self.places)
        ordered = np.zeros((len(JOINT_SETS[self.joint_set]), points.shape[1]), points.dtype)
        ordered[places[places != NO_JOINT]] = points[places != NO_JOINT]
        return ordered


def find_order(names: list[Any]) -> NamedOrder:
    """Find the joint set that has all joints of these names.

    A set in just this order comes first, then one that differs in the order only, then the smallest
    that has more joints.

    Raises:
        ValueError: If names repeat, are no joints, or no set has all of them.
    """
    words = [_to_word(name) if isinstance(name, str) else "" for name in names]
    readings = []
    for rank, order in enumerate(JOINT_SETS.values()):
        places = _places_in(order, words)
        if places is not None:
            is_same = places == tuple(range(len(order)))
            readings.append((not is_same, len(order), rank, NamedOrder(order.name, places)))
    if readings:
        return min(readings, key=lambda reading: reading[:3])[3]
    repeated = [name for name, count in Counter(map(str, names)).items() if count > 1]
    if repeated:
        raise ValueError(f"the keypoints are named {_listed(repeated)} more than once")
    known = {joint for order in JOINT_SETS.values() for joint in order.names}
    unknown = [
        name for name, word in zip(names, words, strict=True) if _to_joint(word, "") not in known
    ]
    if unknown:
        raise ValueError(
            f"the keypoints named {_listed(unknown)} are no joints of a joint set; name the order "
            "with joint_set (--joint-set) if the names are wrong"
        )
    raise ValueError(
        f"no joint set has all of the keypoints {_listed(names)}; name the order with joint_set "
        "(--joint-set)"
    )


def _listed(names: list[Any]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shown(name, 40) for name in names[:_SHOWN]) + more


def _places_in(order: JointSet, words: list[str]) -> tuple[int, ...] | None:
    """Place of each name in a set, or None if the set has not all of them, each once."""
    if order.name == "spin49":
        return None
    place = {joint: index for index, joint in enumerate(order.names)}
    places = []
    for word in words:
        found = place.get(_to_joint(word, order.name), NO_JOINT)
        if found == NO_JOINT and not _FACE_OR_HAND.fullmatch(word):
            return None
        places.append(found)
    used = [index for index in places if index != NO_JOINT]
    return tuple(places) if used and len(set(used)) == len(used) else None


def _to_joint(word: str, set_name: str) -> str:
    """Our name of a joint, as a set understands the word; the word itself if it is none."""
    special = _IN_SET.get(set_name, {})
    if word in special:
        return special[word]
    if word[:1] in ("l", "r") and word[1:] in _PAIRED:
        return word[0] + _PAIRED[word[1:]]
    return _SINGLE.get(word, word)


@functools.lru_cache(maxsize=4096)
def _to_word(name: str) -> str:
    """One lower-case word of a name, with l or r in front for its side.

    ``Left Shoulder``, ``leftShoulder``, ``shoulder_l`` and ``LShoulder`` become ``lshoulder``.
    """
    if len(name) > 60:
        return ""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=^[LR])(?=[A-Z][a-z])", "_", name.strip())
    parts = [part for part in re.split(r"[^a-z0-9]+", spaced.lower()) if part]
    sides = [part[0] for part in parts if part in ("l", "r", "left", "right")]
    rest = "".join(part for part in parts if part not in ("l", "r", "left", "right"))
    if not sides:
        glued = re.fullmatch(r"(left|right)(.+)", rest)
        return glued[1][0] + glued[2] if glued else rest
    return sides[0] + rest if len(sides) == 1 else ""
