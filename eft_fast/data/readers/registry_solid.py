"""Rows of the registry: datasets with truth in space, and fits as annotations."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from eft_fast.data.formats.detect import find_format
from eft_fast.data.readers.peek import Peek
from eft_fast.data.readers.reading import Reader

Matches: TypeAlias = Callable[[Peek], bool]

_ROOM: Final = "eft_fast.data.readers"
_SOLID: Final = f"{_ROOM}.datasets3d"
#: Depths at which the folder of the 3D positions of Human3.6M may lie.
_H36M_DEPTHS: Final = ("", "*/", "*/*/", "*/*/*/")


def _mentions(path: Path, *words: bytes) -> bool:
    """Whether all words stand somewhere in a file, as keys of a pickle do."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return all(data.find(word) >= 0 for word in words)
    except (OSError, ValueError):
        return False


def _first(peek: Peek, *patterns: str) -> Path | None:
    """The path, if it is a file, else the first that matches in the folder."""
    if not peek.is_folder:
        return peek.path
    for pattern in patterns:
        try:
            found = next(iter(sorted(peek.path.glob(pattern))), None)
        except OSError:
            continue
        if found is not None:
            return found
    return None


def _is_3dpw(peek: Peek) -> bool:
    file = _first(peek, "*.pkl", "sequenceFiles/*/*.pkl", "*/*.pkl")
    is_pickle = file is not None and file.suffix == ".pkl"
    return is_pickle and file is not None and _mentions(file, b"jointPositions", b"cam_poses")


def _is_agora(peek: Peek) -> bool:
    if peek.is_folder:
        return peek.has("*_withjv.pkl") or _first(peek, "*/*_withjv.pkl") is not None
    return peek.path.name.endswith("_withjv.pkl")


def _is_up3d(peek: Peek) -> bool:
    if peek.is_folder:
        return peek.has("*_body.pkl", "*_joints.npy")
    return peek.suffix == ".txt" and b"_image.png" in peek.head


def _is_human36m(peek: Peek) -> bool:
    if not peek.is_folder:
        if peek.suffix == ".cdf":
            return "D3_Positions_mono" in peek.path.as_posix()
        return peek.is_hdf5 and {"pose", "camera", "frame"} <= set(peek.arrays)
    if peek.has("Human36M_subject*_data.json"):
        return True
    patterns = [f"{depth}*D3_Positions_mono*" for depth in _H36M_DEPTHS]
    return _first(peek, *patterns) is not None


def _is_humaneva(peek: Peek) -> bool:
    if peek.is_folder:
        return peek.has("data_3d_humaneva*.npz", "data_2d_humaneva*.npz")
    return peek.path.name.startswith(("data_3d_humaneva", "data_2d_humaneva"))


def _is_panoptic(peek: Peek) -> bool:
    name = "hdPose3d_stage1_coco19"
    return peek.is_folder and (
        peek.path.name == name or _first(peek, name, f"*/{name}") is not None
    )


def _is_mpi_inf_3dhp(peek: Peek) -> bool:
    if not peek.is_folder:
        is_test = peek.is_hdf5 and {"annot2", "annot3"} <= set(peek.arrays)
        return is_test or {"annot2", "annot3"} <= set(peek.arrays)
    patterns = [f"{depth}annot{kind}.mat" for depth in ("", "*/", "*/*/") for kind in ("", "_data")]
    return _first(peek, *patterns) is not None


def _is_bedlam(peek: Peek) -> bool:
    file = peek if not peek.is_folder else peek.child("*.npz")
    return file is not None and {"pose_cam", "gtkps", "imgname"} <= set(file.arrays)


def _is_hmr2_npz(peek: Peek) -> bool:
    names = set(peek.arrays)
    return {"imgname", "center", "scale"} <= names and "body_keypoints_2d" in names


def _is_eft_pickle(peek: Peek) -> bool:
    if find_format(peek.path) != "eft-pickle":
        return False
    file = _first(peek, "*.pkl")
    return file is not None and _mentions(file, b"pred_pose_rotmat")


def _is_fits(name: str) -> Matches:
    return lambda peek: find_format(peek.path) == name


def _solid(name: str, title: str, matches: Matches, module: str, joint_set: str) -> Reader:
    function = f"samples_of_{module if module != 'threedpw' else '3dpw'}"
    return Reader(name, title, matches, f"{_SOLID}.{module}", function, joint_set)


def _fits(name: str, title: str, matches: Matches, function: str) -> Reader:
    return Reader(name, title, matches, f"{_ROOM}.fits", function, "spin49")


#: Tried before the readers of 2D formats: what they match they match narrowly.
SOLID_READERS: Final = (
    _solid("3dpw", "3DPW sequences (.pkl)", _is_3dpw, "threedpw", "op18, in space smpl24"),
    _solid("agora", "AGORA (*_withjv.pkl)", _is_agora, "agora", "smpl24 or smpl45"),
    _solid("up-3d", "UP-3D (*_body.pkl, *_joints.npy)", _is_up3d, "up3d", "lsp14"),
    _solid(
        "human36m",
        "Human3.6M (.cdf, annot.h5 or JSON)",
        _is_human36m,
        "human36m",
        "h36m17_Jreg; of the JSON h36m17_rightfirst",
    ),
    _solid("humaneva", "HumanEva-I (VideoPose3D's .npz)", _is_humaneva, "humaneva", "j24"),
    _solid("panoptic", "CMU Panoptic (hdPose3d)", _is_panoptic, "panoptic", "panoptic19"),
    _solid(
        "mpi-inf-3dhp",
        "MPI-INF-3DHP (annot.mat, annot_data.mat)",
        _is_mpi_inf_3dhp,
        "mpi_inf_3dhp",
        "mpiinf28; of the test set mpiinf17test",
    ),
    _solid("bedlam", "BEDLAM (.npz)", _is_bedlam, "bedlam", "smpl24"),
    _fits("eft-pickle", "fits of EFT (folder of .pkl)", _is_eft_pickle, "samples_of_eft_pickle"),
    _fits("eft-json", "fits of EFT (.json)", _is_fits("eft-json"), "samples_of_eft_json"),
    _fits("spin-npz", "labels of SPIN (.npz)", _is_fits("spin-npz"), "samples_of_spin_npz"),
    _fits("hmr2-npz", "HMR 2.0's evaluation sets (.npz)", _is_hmr2_npz, "samples_of_hmr2_npz"),
    _fits("hmr2-tar", "HMR 2.0's tars", _is_fits("hmr2-tar"), "samples_of_hmr2_tar"),
    _fits(
        "humandata-npz", "MMHuman3D's HumanData (.npz)", _is_fits("humandata-npz"),
        "samples_of_humandata",
    ),
    _fits("parquet", "our shards of fits (.parquet)", _is_fits("parquet"), "samples_of_parquet"),
)  # fmt: skip
