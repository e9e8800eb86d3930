"""Skeletons with known turns, and writers of the formats that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from eft_fast.body.model_io import load_arrays
from eft_fast.data.motion.skeleton import euler_to_matrix

#: A rig as common tools name it, by joint of SMPL; hands and feet end there.
MIXAMO = (
    "Hips", "LeftUpLeg", "RightUpLeg", "Spine", "LeftLeg", "RightLeg", "Spine1", "LeftFoot",
    "RightFoot", "Spine2", "LeftToeBase", "RightToeBase", "Neck", "LeftShoulder",
    "RightShoulder", "Head", "LeftArm", "RightArm", "LeftForeArm", "RightForeArm", "LeftHand",
    "RightHand", "LeftHandEnd", "RightHandEnd",
)  # fmt: skip
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
#: CMU's bones by joint of SMPL; hip joints and the like are added by ``write_acclaim``.
ACCLAIM = (
    "root", "lfemur", "rfemur", "lowerback", "ltibia", "rtibia", "upperback", "lfoot", "rfoot",
    "thorax", "ltoes", "rtoes", "lowerneck", "lclavicle", "rclavicle", "head", "lhumerus",
    "rhumerus", "lradius", "rradius", "lhand", "rhand",
)  # fmt: skip


@cache
def _rest_joints() -> np.ndarray:
    body = load_arrays("open")
    return np.asarray(body.J_regressor @ body.v_template)


def rest_joints() -> np.ndarray:
    return _rest_joints().copy()


def random_angles(frames: int, joints: int, seed: int = 0, size: float = 40.0) -> np.ndarray:
    """Degrees [F, J, 3]."""
    return np.random.default_rng(seed).uniform(-size, size, (frames, joints, 3))


def write_bvh(
    path: Path,
    names: Sequence[str],
    places: np.ndarray,
    degrees: np.ndarray,
    *,
    parents: Sequence[int] = PARENTS,
    order: str = "zxy",
    root: np.ndarray | None = None,
    seconds: float = 0.1,
) -> np.ndarray:
    """Write a file; return the local rotations [F, J, 3, 3] that it holds."""
    lines = ["HIERARCHY"]
    columns: list[int] = []

    def add(joint: int, depth: int) -> None:
        pad = "\t" * depth
        offset = places[joint] - (places[parents[joint]] if parents[joint] >= 0 else 0)
        kind = "ROOT" if parents[joint] < 0 else "JOINT"
        moves = "Xposition Yposition Zposition " if parents[joint] < 0 else ""
        turns = " ".join(f"{axis.upper()}rotation" for axis in order)
        lines.extend([
            f"{pad}{kind} {names[joint]}", f"{pad}{{",
            f"{pad}\tOFFSET " + " ".join(f"{v:.9f}" for v in offset),
            f"{pad}\tCHANNELS {6 if moves else 3} {moves}{turns}",
        ])  # fmt: skip
        columns.append(joint)
        children = [j for j, parent in enumerate(parents) if parent == joint]
        for child in children:
            add(child, depth + 1)
        if not children:
            lines.extend(
                [f"{pad}\tEnd Site", f"{pad}\t{{", f"{pad}\t\tOFFSET 0 0.1 0", f"{pad}\t}}"]
            )
        lines.append(f"{pad}}}")

    add(list(parents).index(-1), 0)
    root = np.zeros((len(degrees), 3)) if root is None else root
    lines += ["MOTION", f"Frames: {len(degrees)}", f"Frame Time: {seconds}"]
    for place, row in zip(root, degrees, strict=True):
        values = [*place, *(v for joint in columns for v in row[joint])]
        lines.append(" ".join(f"{value:.9f}" for value in values))
    path.write_text("\n".join(lines) + "\n")
    flat = euler_to_matrix(np.radians(degrees.reshape(-1, 3)), order, intrinsic=True)
    return flat.reshape(*degrees.shape[:2], 3, 3)


def write_acclaim(
    folder: Path, places: np.ndarray, degrees: np.ndarray, axes: np.ndarray, *, seed: int = 0
) -> None:
    """07.asf and 07_01.amc of CMU's kind; bones end where their first child begins.

    Args:
        folder: Where to.
        places: [22, 3] joints of SMPL's order in the rest pose.
        degrees: [F, 22, 3] rx, ry, rz of each bone; knees, say, would have fewer.
        axes: [22, 3] degrees, the own axes of each bone.
    """
    parents = PARENTS[:22]
    bones, hierarchy, amc_names = [], {}, []

    def bone(name: str, vector: np.ndarray, axis: np.ndarray, dof: str) -> None:
        length = float(np.linalg.norm(vector))
        direction = vector / length if length else np.array([0.0, 1.0, 0.0])
        bones.append(
            f"  begin\n     id {len(bones) + 1}\n     name {name}\n"
            f"     direction {' '.join(f'{v:.9f}' for v in direction)}\n     length {length:.9f}\n"
            f"     axis {' '.join(f'{v:.9f}' for v in axis)}  XYZ\n{dof}  end"
        )

    for joint in range(1, 22):
        parent, above = parents[joint], ACCLAIM[parents[joint]]
        children = [j for j in range(22) if parents[j] == joint]
        # A bone ends at its middle child, else between its children; a link fills the gap.
        end = places[children].mean(0) if children else places[joint] + (0, 0, 0.1)
        siblings = [j for j in range(22) if parents[j] == parent]
        start = places[siblings].mean(0) if parent else places[0]
        link = f"{ACCLAIM[joint]}joint"
        if np.abs(places[joint] - start).max() > 1e-12:
            bone(link, places[joint] - start, np.zeros(3), "")
            hierarchy.setdefault(above, []).append(link)
            above = link
        hierarchy.setdefault(above, []).append(ACCLAIM[joint])
        bone(ACCLAIM[joint], end - places[joint], axes[joint], "    dof rx ry rz\n")
        amc_names.append(ACCLAIM[joint])
    lines = [
        "# made by a test", ":version 1.10", ":name 07", ":units", "  mass 1.0", "  length 0.45",
        "  angle deg", ":documentation", "  none", ":root", "   order TX TY TZ RX RY RZ",
        "   axis XYZ", "   position 0 0 0", "   orientation 0 0 0", ":bonedata", *bones,
        ":hierarchy", "  begin", *(f"    {p} {' '.join(c)}" for p, c in hierarchy.items()), "  end",
    ]  # fmt: skip
    (folder / "07.asf").write_text("\n".join(lines) + "\n")
    amc = ["#!OML:ASF", ":FULLY-SPECIFIED", ":DEGREES"]
    for number, row in enumerate(degrees, 1):
        amc += [str(number), "root 1 2 3 " + " ".join(f"{v:.9f}" for v in row[0])]
        for joint, name in enumerate(amc_names, 1):
            amc.append(f"{name} " + " ".join(f"{v:.9f}" for v in row[joint]))
    (folder / "07_01.amc").write_text("\n".join(amc) + "\n")


def write_amass(path: Path, poses: np.ndarray, trans: np.ndarray, rate: float = 120.0) -> None:
    np.savez(
        path, poses=poses, trans=trans, betas=np.zeros(16), dmpls=np.zeros((len(poses), 8)),
        gender=np.array("female"), mocap_framerate=np.array(rate),
    )  # fmt: skip
