"""Every format that is read, in one list, and which of them a file or folder is.

A new format is a module with a function from a ``Reading`` to samples (``reading.py``), and a row
here. Rows are tried from the top: what matches more narrowly stands higher.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from eft_fast.data.photos import exists
from eft_fast.data.readers.datasets import (
    aic,
    densepose,
    jhmdb,
    lsp,
    mpii,
    ochuman,
    penn_action,
    posetrack,
)
from eft_fast.data.readers.detectors import alphapose, mediapipe, mmpose, rtmlib, yolo
from eft_fast.data.readers.peek import Peek
from eft_fast.data.readers.reading import Reader, SampleStream
from eft_fast.data.readers.registry_solid import SOLID_READERS
from eft_fast.data.values import shown
from eft_fast.errors import unknown_name
from eft_fast.sample import SampleList

if TYPE_CHECKING:
    from eft_fast.data.photos import PathLike, Photos

_ROOM: Final = "eft_fast.data.readers"
_WHO: Final = "open_annotations"


def _is_openpose(peek: Peek) -> bool:
    if peek.is_folder:
        return peek.has("*_keypoints.json")
    # COCO's own files are called person_keypoints_val2017.json, and copies person_keypoints.json.
    is_named = peek.path.name.endswith("_keypoints.json") and isinstance(peek.json, dict)
    return is_named and not _is_coco(peek)


def _is_coco(peek: Peek) -> bool:
    if isinstance(peek.json, dict):
        return "images" in peek.json or "annotations" in peek.json
    return "image_id" in peek.json_first() and "keypoints" in peek.json_first()


_ALL: Final = (
    *SOLID_READERS,
    # Detectors.
    Reader(
        "openpose",
        "OpenPose output (folder of *_keypoints.json)",
        _is_openpose,
        f"{_ROOM}.openpose",
        "samples_of_openpose",
        "op25, op25b or op18",
    ),
    Reader(
        "mmpose",
        "mmpose predictions (.json per photo or video)",
        mmpose.is_mmpose,
        f"{_ROOM}.detectors.mmpose",
        "samples_of_mmpose",
        "as the file names its keypoints, else by their number",
    ),
    Reader(
        "alphapose",
        "AlphaPose, --format cmu or open (.json)",
        alphapose.is_alphapose,
        f"{_ROOM}.detectors.alphapose",
        "samples_of_alphapose",
        "op18",
    ),
    Reader(
        "yolo",
        "YOLO pose labels (.txt per photo)",
        yolo.is_yolo,
        f"{_ROOM}.detectors.yolo",
        "samples_of_yolo",
        "by the number of keypoints",
    ),
    Reader(
        "ultralytics",
        "ultralytics Results.tojson (.json per photo)",
        yolo.is_ultralytics,
        f"{_ROOM}.detectors.yolo",
        "samples_of_ultralytics",
        "by the number of keypoints",
    ),
    Reader(
        "dwpose",
        "DWPose bodies (.json per photo)",
        rtmlib.is_dwpose,
        f"{_ROOM}.detectors.rtmlib",
        "samples_of_dwpose",
        "op18",
    ),
    Reader(
        "mediapipe",
        "MediaPipe Pose landmarks (.json or .npy)",
        mediapipe.is_mediapipe,
        f"{_ROOM}.detectors.mediapipe",
        "samples_of_mediapipe",
        "mp33",
    ),
    Reader(
        "rtmlib",
        "rtmlib keypoints and scores (.npz, .npy or .json)",
        rtmlib.is_rtmlib,
        f"{_ROOM}.detectors.rtmlib",
        "samples_of_rtmlib",
        "by the number of keypoints",
    ),
    # Datasets.
    Reader(
        "mpii-mat",
        "MPII Human Pose, the release (.mat)",
        mpii.is_mpii_mat,
        f"{_ROOM}.datasets.mpii",
        "samples_of_mpii",
        "mpii16",
    ),
    Reader(
        "mpii-json",
        "MPII as HRNet and mmpose have it (.json)",
        mpii.is_mpii_json,
        f"{_ROOM}.datasets.mpii",
        "samples_of_mpii",
        "mpii16",
    ),
    Reader(
        "mpii-h5",
        "MPII as an .h5 of annotations",
        mpii.is_mpii_h5,
        f"{_ROOM}.datasets.mpii",
        "samples_of_mpii",
        "mpii16",
    ),
    Reader(
        "lsp",
        "Leeds Sports Pose and its extended set (joints.mat)",
        lsp.is_lsp,
        f"{_ROOM}.datasets.lsp",
        "samples_of_lsp",
        "lsp14",
    ),
    Reader(
        "penn-action",
        "Penn Action (labels/*.mat)",
        penn_action.is_penn_action,
        f"{_ROOM}.datasets.penn_action",
        "samples_of_penn_action",
        "penn13",
    ),
    Reader(
        "jhmdb",
        "JHMDB (joint_positions.mat)",
        jhmdb.is_jhmdb,
        f"{_ROOM}.datasets.jhmdb",
        "samples_of_jhmdb",
        "jhmdb15",
    ),
    Reader(
        "posetrack",
        "PoseTrack 2018 and 2021 (folder of .json)",
        posetrack.is_posetrack,
        f"{_ROOM}.datasets.posetrack",
        "samples_of_posetrack",
        "posetrack17",
    ),
    Reader(
        "ochuman",
        "OCHuman, its own file (.json)",
        ochuman.is_ochuman,
        f"{_ROOM}.datasets.ochuman",
        "samples_of_ochuman",
        "ochuman19",
    ),
    Reader(
        "aic",
        "AI Challenger, its own file (.json)",
        aic.is_aic,
        f"{_ROOM}.datasets.aic",
        "samples_of_aic",
        "aic14",
    ),
    Reader(
        "densepose-coco",
        "DensePose-COCO (.json)",
        densepose.is_densepose,
        f"{_ROOM}.datasets.densepose",
        "samples_of_densepose",
        "coco17, and surface points",
    ),
    # The form of many: COCO, its feet and WholeBody, CrowdPose, OCHuman, Human-Art, Halpe, a video
    # of PoseTrack, lists of detections (COCO results, AlphaPose).
    Reader(
        "coco",
        "COCO keypoints (.json)",
        _is_coco,
        f"{_ROOM}.coco",
        "samples_of_coco",
        "as the file names its keypoints",
    ),
)

#: Names of datasets that come in the form of another reader.
ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "coco-foot": "coco",
        "coco-wholebody": "coco",
        "coco-results": "coco",
        "crowdpose": "coco",
        "halpe": "coco",
        "humanart": "coco",
        "posetrack18": "posetrack",
        "posetrack21": "posetrack",
        "densepose": "densepose-coco",
        "lspet": "lsp",
        "mpii": "mpii-mat",
        "h36m": "human36m",
        "pw3d": "3dpw",
        "3dhp": "mpi-inf-3dhp",
        "up3d": "up-3d",
    }
)
#: Readers by name, in the order in which they are tried.
READERS: Final[Mapping[str, Reader]] = MappingProxyType({reader.name: reader for reader in _ALL})


def detect(path: PathLike) -> Reader:
    """Tell which format a file or folder is, by what is in it rather than by its name.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If it is none of ``READERS``.
    """
    file = Path(path)
    if not exists(file):
        raise FileNotFoundError(f"{_WHO}: no file or folder {shown(file)}")
    peek = Peek(file)
    for reader in READERS.values():
        if reader.matches(peek):
            return reader
    raise ValueError(
        f"{_WHO}: {shown(file)} is in no format that is known ({_looks_like(peek)}); "
        f"name the format with --format, one of {', '.join(READERS)}"
    )


def find_reader(path: PathLike, format_name: str | None = None) -> tuple[Reader, Path]:
    """The reader of a path, which may be ``"name:path"``, and the path without the name.

    Raises:
        FileNotFoundError: If no reader is named, and there is no such file or folder.
        ValueError: If there is no such reader, or none takes the path.
    """
    if format_name is not None:
        return _named(format_name), Path(path)
    name, colon, rest = str(path).partition(":")
    if colon and (name in READERS or name in ALIASES):
        return _named(name), Path(rest)
    # One letter before a colon is a drive.
    if colon and len(name) > 1 and name.replace("-", "_").isidentifier() and not exists(Path(path)):
        return _named(name), Path(rest)
    return detect(path), Path(path)


def stream_annotations(
    path: PathLike,
    photos: Photos | None = None,
    *,
    format_name: str | None = None,
    min_keypoints: int = 1,
    min_area: float = 0.0,
    joint_set: str | None = None,
    **options: Any,
) -> SampleStream:
    """Read an annotation file or folder, one person after another.

    Memory holds a few people at a time where the format allows it; ``docs/datasets.md`` says of
    each format whether it does.

    Args:
        path: The file or folder. ``"name:path"`` names the format, as in ``"coco:people.json"``.
        photos: Folder of the photos, or a list of files; of a list, only these are wanted. None:
            photos are not looked for, and samples have none.
        format_name: Name of the format (a key of ``READERS``); None: told by what is in the file.
        min_keypoints: Fewest labelled keypoints of a person.
        min_area: Smallest area of a person in square pixels; one of just this is left out.
        joint_set: Order of the keypoints, whatever the file says; None: as the file says.
        **options: Further options of the one reader.

    Returns:
        The people, in a steady order. One that cannot be fitted says why in ``problem``; those left
        out are counted in ``left_out``; what is odd about the file stands in ``notes``.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If no reader takes the file, or it as a whole is not what its format asks for;
            the latter as the first person is taken.
    """
    reader, file = find_reader(path, format_name)
    return reader.start(
        file,
        photos,
        min_keypoints=min_keypoints,
        min_area=min_area,
        joint_set=joint_set,
        **options,
    )


def open_annotations(
    path: PathLike,
    photos: Photos | None = None,
    *,
    format_name: str | None = None,
    min_keypoints: int = 1,
    min_area: float = 0.0,
    joint_set: str | None = None,
    **options: Any,
) -> SampleList:
    """Read an annotation file or folder as a whole; arguments as in ``stream_annotations``.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If no reader takes the file, or it as a whole is not what its format asks for.
    """
    return stream_annotations(
        path,
        photos,
        format_name=format_name,
        min_keypoints=min_keypoints,
        min_area=min_area,
        joint_set=joint_set,
        **options,
    ).to_list()


def _named(name: str) -> Reader:
    name = ALIASES.get(name, name)
    if name in READERS:
        return READERS[name]
    raise ValueError(unknown_name(_WHO, "format", name, READERS))


def _looks_like(peek: Peek) -> str:
    """What was found instead, for the sentence."""
    if peek.is_folder:
        names = ", ".join(shown(name, 30) for name in peek.names[:4])
        return f"a folder with {names or 'nothing in it'}"
    if not peek.head:
        return "an empty file"
    if isinstance(peek.json, dict):
        keys = ", ".join(shown(key, 30) for key in list(peek.json)[:6])
        return f"a JSON object with the keys {keys or 'none'}"
    if isinstance(peek.json, list):
        keys = ", ".join(shown(key, 30) for key in list(peek.json_first())[:6])
        return f"a JSON list of objects with the keys {keys}" if keys else "a JSON list"
    if peek.arrays:
        return f"arrays called {', '.join(shown(name, 30) for name in list(peek.arrays)[:6])}"
    for is_one, kind, package in (
        (peek.is_mat, "a MATLAB file", "scipy"),
        (peek.is_hdf5, "an HDF5 file", "h5py"),
    ):
        if is_one:
            is_missing = importlib.util.find_spec(package) is None
            return f"{kind}, which {package} reads: pip install {package}" if is_missing else kind
    return f"a file of {peek.path.stat().st_size} bytes"
