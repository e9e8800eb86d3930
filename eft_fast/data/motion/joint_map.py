"""Which joint of a motion capture skeleton is which of SMPL's, by its name and its place.

Rigs name limbs alike but for prefixes (``mixamorig:LeftUpLeg``, ``Bip01 L Thigh``, ``lfemur``), so
limbs go by name; the pelvis is where the legs meet, and the spine whatever stands between the
pelvis and the neck.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from eft_fast.data.motion.skeleton import Skeleton
from eft_fast.errors import unknown_name
from eft_fast.keypoints import JOINT_SETS

SMPL24: Final = JOINT_SETS["smpl24"].names
#: Names of a side's joints without the side, the surest first; ``_bare`` makes them.
_SIDE_NAMES: Final = {
    "hip": ("femur", "upleg", "thigh", "upperleg", "hip", "legupper"),
    "kne": ("tibia", "shin", "lowerleg", "calf", "knee", "leglower", "leg"),
    "ank": ("ankle", "foot"),
    "foot": ("toes", "toebase", "toe", "toe0", "ball", "foot"),
    "sho": ("humerus", "shldr", "upperarm", "uparm", "armupper", "arm", "shoulder"),
    "elb": ("radius", "forearm", "lowerarm", "armlower", "elbow"),
    "wri": ("wrist", "hand"),
    "col": ("clavicle", "collar", "collarbone", "shoulder"),
}
_MIDDLE_NAMES: Final = {"neck": ("lowerneck", "neck", "neck1", "neck01"), "head": ("head",)}
#: Without these there is no pose; the others stay with their parent where they are missing.
REQUIRED: Final = tuple(f"{side}{joint}" for joint in ("hip", "kne", "sho", "elb") for side in "lr")


def find_joints(
    skeleton: Skeleton, who: str, given: Mapping[str, str] | None = None
) -> dict[int, int]:
    """Index of the skeleton's joint by index of SMPL's, as far as there is one.

    Args:
        skeleton: The joints.
        who: Opens the sentences of errors.
        given: Names that decide: joints of ``smpl24`` to joints of the file.

    Raises:
        ValueError: If a hip, knee, shoulder or elbow is not found, or a given name does not exist.
    """
    index_of = {name: joint for joint, name in reversed(list(enumerate(skeleton.names)))}
    found: dict[str, int] = {}
    for name, source in (given or {}).items():
        if name not in SMPL24:
            raise ValueError(unknown_name(who, "a joint of SMPL", name, SMPL24))
        if source not in index_of:
            raise ValueError(unknown_name(who, "a joint of the file", source, skeleton.names))
        found[name] = index_of[source]
    bare = [_bare(name) for name in skeleton.names]
    for side in "lr":
        for joint, names in _SIDE_NAMES.items():
            if joint == "wri" and (side, "radius") in bare:
                names = names[::-1]  # Acclaim's wrist is a twist of the lower arm
            _find(found, f"{side}{joint}", [(side, name) for name in names], bare)
    for joint, names in _MIDDLE_NAMES.items():
        _find(found, joint, [("", name) for name in names], bare)
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        listed = ", ".join(name[:30] for name in skeleton.names[:40])
        raise ValueError(
            f"{who}: no joint of the file is known as {', '.join(missing)}; it has {listed}; say "
            "which is which with joints"
        )
    _add_trunk(found, skeleton)
    return {SMPL24.index(name): joint for name, joint in found.items()}


def _find(
    found: dict[str, int], joint: str, wanted: list[tuple[str, str]], bare: list[tuple[str, str]]
) -> None:
    """Take the first wanted name that the skeleton has and no other joint has taken."""
    if joint in found:
        return
    for name in wanted:
        if name in bare and bare.index(name) not in found.values():
            found[joint] = bare.index(name)
            return


def _bare(name: str) -> tuple[str, str]:
    """Side (l, r or nothing) and the rest of a name, in small letters without marks."""
    name = re.sub(
        r"^(mixamorig\d*|bip\d*|character\d*|[^:]*:)[\s_:]*", "", name, flags=re.IGNORECASE
    )
    # LeftArm, left_arm, L_Arm, l arm, Arm.L, arm_left, lArm; lfemur and rthigh at last.
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    small = [word.lower() for word in words]
    for place in (0, -1):
        if len(small) > 1 and small[place] in ("l", "r", "left", "right"):
            side = small.pop(place)[0]
            return side, "".join(small)
    text = "".join(small)
    for side, word in (("l", "left"), ("r", "right")):
        if text.startswith(word) and len(text) > len(word):
            return side, text.removeprefix(word)
    known = {name for names in _SIDE_NAMES.values() for name in names}
    if text[:1] in ("l", "r") and text[1:] in known:
        return text[0], text[1:]
    return "", text


def _add_trunk(found: dict[str, int], skeleton: Skeleton) -> None:
    """Add the pelvis, where the legs meet, and what stands between it and the neck."""
    parents = skeleton.parents.tolist()

    def way_up(joint: int) -> list[int]:
        way = [joint]
        while parents[way[-1]] >= 0:
            way.append(parents[way[-1]])
        return way

    left = way_up(found["lhip"])
    if "pelvis" not in found:
        found["pelvis"] = next((j for j in way_up(found["rhip"])[1:] if j in left[1:]), left[-1])
    top = found.get("neck", found.get("head"))
    if top is None:
        meet = way_up(found["rsho"])
        top = next((j for j in way_up(found["lsho"]) if j in meet), found["pelvis"])
        chain = way_up(top)
    else:
        chain = way_up(top)[1:]
    if found["pelvis"] in chain:
        chain = chain[: chain.index(found["pelvis"])]
    chain = [joint for joint in reversed(chain) if joint not in found.values()]
    if len(chain) >= 3:
        chosen = {"spine1": chain[0], "spine2": chain[len(chain) // 2], "spine3": chain[-1]}
    else:
        chosen = dict(zip(("spine1", "spine3"), chain, strict=False))
    for name, joint in chosen.items():
        found.setdefault(name, joint)
