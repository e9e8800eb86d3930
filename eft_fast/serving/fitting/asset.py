"""``fit.npz`` of an exported folder: what a fit needs beside the model, in one file.

The points of every joint set of the body, contracted with its skinning (``ops.plans.PointsPlan``),
and the inverse covariance of the network's errors with the hash of the weights that it belongs to.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eft_fast.archives import check_unpacked
from eft_fast.conventions import NUM_JOINTS
from eft_fast.errors import unknown_name
from eft_fast.keypoints import JOINT_SETS, JointSet
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.map_rules import NUM_STATE
from eft_fast.serving.card import FIT_NAME, ModelCard
from eft_fast.serving.fitting.body import BodyPlan, BodyPoints

if TYPE_CHECKING:
    from jaxtyping import Float64

FORMAT: Final = "eft_fast-fit-1"
#: Largest file, unpacked: points of a body with dense joint regressors stay far below.
_MOST_BYTES: Final = 256_000_000
_COEFFICIENTS: Final = 218
_SOURCES: Final = "sources/"
#: What makes fits possible with an export.
HOW: Final = (
    "make its error covariance with `eft-fast calibrate --regressor R --out FILE`, and export with "
    "--covariance FILE (and --body where it is not the open one)"
)


@dataclass(frozen=True, eq=False)
class FitAsset:
    """What a fit needs of the body and of the network.

    Attributes:
        body: Points of all joint sets, on the body ``body_id``.
        precision: Sigma^-1 of the network's errors.
        weights_hash: ``identity.weights_hash`` of the network.
        body_id: Id of the body.
        people: How many people the covariance was measured on.
        source: On which people, in a few words.
    """

    body: BodyPlan
    precision: Float64[np.ndarray, "85 85"]
    weights_hash: str
    body_id: str
    people: int
    source: str
    _points: dict[str, BodyPoints] = field(default_factory=dict, repr=False)

    def points(self, joint_set: str | JointSet) -> BodyPoints:
        """The points of a joint set; prepared once.

        Raises:
            ValueError: If the set does not exist, or not on this body.
        """
        name = find_joint_set(joint_set).name
        if name not in self.body.sources:
            raise ValueError(unknown_name("serving", "joint_set", name, self.body.sources))
        if name not in self._points:
            self._points[name] = BodyPoints(self.body, self.body.sources[name])
        return self._points[name]

    def to_bytes(self) -> bytes:
        """The file: an ``.npz`` without pickles, the same bytes for the same numbers."""
        card = {
            "format": FORMAT,
            "weights_hash": self.weights_hash,
            "body_id": self.body_id,
            "people": self.people,
            "source": self.source,
        }
        arrays: dict[str, Any] = {name: getattr(self.body, name) for name in _SHAPES}
        arrays |= {_SOURCES + name: value for name, value in self.body.sources.items()}
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, card=np.array(json.dumps(card)), precision=self.precision, **arrays
        )
        return buffer.getvalue()


#: Arrays of ``BodyPlan`` with their shapes; -1 is any length.
_SHAPES: Final[Mapping[str, tuple[int, ...]]] = {
    "skeleton": (NUM_JOINTS, 3, 11),
    "parents": (NUM_JOINTS,),
    "basis": (-1, 3, _COEFFICIENTS),
    "term_index": (-1, 3),
    "term_weight": (-1, 2),
    "joint_index": (-1, 2),
    "joint_weight": (-1,),
}


def load_asset(folder: str | Path, card: ModelCard) -> FitAsset:
    """Read ``fit.npz`` of an exported folder and check that it belongs to the model.

    Args:
        folder: Where the model's card is.
        card: Of the model.

    Raises:
        ValueError: If the export has none, or the file is damaged, is not the one that was
            exported, or belongs to other weights or to another body.
    """
    if not card.fit_sha256:
        raise ValueError(
            f"serving: fits are not possible with this export of {card.regressor}, whose usual "
            f"errors it does not know; {HOW}"
        )
    path = Path(folder) / FIT_NAME
    if not path.is_file():
        raise ValueError(f"serving: no {FIT_NAME} in {folder}, which fits need; export again")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != card.fit_sha256:
        raise ValueError(f"serving: {path} is not the file that was exported; export it again")
    asset = read_asset(path)
    if not card.weights_sha256 or not card.weights_sha256.startswith(asset.weights_hash):
        raise ValueError(
            f"serving: {path} belongs to weights {asset.weights_hash}, the model is "
            f"{card.regressor}; export it again"
        )
    if asset.body_id != card.body:
        raise ValueError(
            f"serving: {path} is about body {asset.body_id}, the model predicts body {card.body}; "
            "export it again"
        )
    return asset


def read_asset(path: str | Path) -> FitAsset:
    """Read and check a file, whichever model it belongs to.

    Raises:
        ValueError: If it is damaged.
    """
    who = f"serving: {path}"
    try:
        check_unpacked(path, _MOST_BYTES, "serving")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        card: Any = json.loads(str(arrays.pop("card")))
        if card["format"] != FORMAT:
            raise KeyError(FORMAT)
        asset = _make_asset(arrays, card)
    except (ValueError, OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{who} holds nothing to fit with, or is damaged ({type(error).__name__}); export again"
        ) from error
    _check_precision(asset.precision, who)
    _check_plan(asset.body, who)
    return asset


def _make_asset(arrays: dict[str, np.ndarray], card: Mapping[str, Any]) -> FitAsset:
    sources = {
        name.removeprefix(_SOURCES): np.asarray(arrays.pop(name), np.int64)
        for name in list(arrays)
        if name.startswith(_SOURCES)
    }
    values: dict[str, Any] = {}
    for name, shape in _SHAPES.items():
        value = arrays[name]
        kind = np.int64 if name in ("parents", "term_index", "joint_index") else np.float64
        if value.ndim != len(shape) or any(
            k not in (-1, n) for k, n in zip(shape, value.shape, strict=True)
        ):
            raise ValueError(name)
        values[name] = np.asarray(value, kind)
    return FitAsset(
        body=BodyPlan(**values, sources=sources),
        precision=np.asarray(arrays["precision"], np.float64),
        weights_hash=str(card["weights_hash"]),
        body_id=str(card["body_id"]),
        people=int(card["people"]),
        source=str(card["source"]),
    )


def _check_precision(precision: np.ndarray, who: str) -> None:
    if precision.shape != (NUM_STATE, NUM_STATE) or not np.isfinite(precision).all():
        raise ValueError(f"{who}: precision must be finite and [{NUM_STATE}, {NUM_STATE}]")
    is_symmetric = np.array_equal(precision, precision.T)
    if not is_symmetric or not np.linalg.eigvalsh(precision)[0] > 0:
        raise ValueError(f"{who}: precision must be symmetric and positive definite")


def _check_plan(body: BodyPlan, who: str) -> None:
    """Raise ValueError unless every index points at something, and all numbers are finite."""
    parents, sources = body.parents, body.sources
    rows, joints, places = body.term_index.T
    most = max((int(each.max(initial=-1)) for each in sources.values()), default=-1)
    rules = {
        "parents": parents[0] == -1
        and bool(((parents[1:] >= 0) & (parents[1:] < np.arange(1, NUM_JOINTS))).all()),
        "rows": _is_within(rows, len(body.basis)),
        "joints": _is_within(joints, NUM_JOINTS) and _is_within(body.joint_index[:, 0], NUM_JOINTS),
        "sources": _is_within(places, most + 1) and _is_within(body.joint_index[:, 1], most + 1),
        "weights": len(rows) == len(body.term_weight)
        and len(body.joint_index) == len(body.joint_weight),
        "joint sets": "smpl24" in sources
        and all(
            name in JOINT_SETS and len(JOINT_SETS[name]) == len(each) and _is_within(each, most + 1)
            for name, each in sources.items()
        ),
        "numbers": all(
            np.isfinite(each).all()
            for each in (body.skeleton, body.basis, body.term_weight, body.joint_weight)
        ),
    }
    wrong = [name for name, holds in rules.items() if not holds]
    if wrong:
        raise ValueError(f"{who}: its {wrong[0]} belong to no body; export again")


def _is_within(index: np.ndarray, count: int) -> bool:
    return not len(index) or (int(index.min()) >= 0 and int(index.max()) < count)
