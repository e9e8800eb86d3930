"""Bring a body model from any source to one layout, check it, and give it its id."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from eft_fast.body.arrays import BodyArrays, VertexRow
from eft_fast.conventions import NUM_BETAS, NUM_JOINTS, NUM_POSE_FEATURES, PARENTS
from eft_fast.keypoints import SMPL45_VERTICES

Array = npt.NDArray[Any]
Fetch = Callable[[str], Array | None]

OPEN_ID: Final = "open-1"
#: The asset names its model in the words of its format.
_FORMAT_IDS: Final = {"open-body/1": OPEN_ID}
_NUM_WEIGHTS: Final = 4
_WHO: Final = "load_body"
#: Vertices and faces of SMPL, and of the open body.
_SMPL_SIZE: Final = (6890, 13776)
_OPEN_SIZE: Final = (6890, 13768)
#: Other models that people pass, by their joints.
_OTHER_MODELS: Final = {52: "SMPL-H", 55: "SMPL-X", 16: "MANO", 5: "FLAME"}
#: Height of a body along y, metres; the smallest are SMIL's infants.
_HEIGHT: Final = (0.4, 3.0)
#: Below it a body of SMPL's topology is SMIL's infant, whose shape directions are others.
_INFANT: Final = 1.0
_MOST_VERTICES: Final = 200_000
_HEAD, _ANKLES = 15, (7, 8)


def asset_path() -> Path:
    """Where the open body lies, or would lie."""
    return Path(str(resources.files("eft_fast") / "assets" / "open_body.npz"))


class _Source:
    """One file or object on its way to ``BodyArrays``: fetches arrays and words the complaints."""

    def __init__(self, fetch: Fetch, origin: str) -> None:
        self.fetch = functools.cache(fetch)
        self.origin = origin

    def fail(self, expected: str, got: str) -> ValueError:
        return ValueError(f"{_WHO}: expected {expected}, got {got} in {self.origin}")

    def maybe(self, *keys: str) -> Array | None:
        for key in keys:
            value = self.fetch(key)
            if value is not None:
                return value
        return None

    def text(self, key: str) -> str | None:
        value = self.maybe(key)
        return str(value) if value is not None and value.dtype.kind == "U" else None

    def numbers(self, *keys: str) -> Array:
        value = self.maybe(*keys)
        if value is None:
            raise self.fail(f"an array {' or '.join(keys)}", "none")
        if value.dtype.kind not in "fiub":
            raise self.fail(f"{keys[0]} as numbers", str(value.dtype))
        return value

    def floats(self, shape: tuple[int | None, ...], *keys: str) -> npt.NDArray[np.float64]:
        stored = self.numbers(*keys)
        # Before it is widened: what does not fit can be of any size.
        self.check_shape(stored, shape, keys[0])
        value = stored.astype(np.float64)
        if not np.isfinite(value).all():
            raise self.fail(f"finite numbers in {keys[0]}", "NaN or infinity")
        return value

    def indices(
        self, shape: tuple[int | None, ...], limit: int, *keys: str
    ) -> npt.NDArray[np.int64]:
        value = self.numbers(*keys)
        self.check_shape(value, shape, keys[0])
        if value.size and (value.min() < 0 or value.max() >= limit):
            got = f"{value.min()} to {value.max()}"
            raise self.fail(f"{keys[0]} from 0 to {limit - 1}", got)
        return value.astype(np.int64)

    def check_shape(self, value: Array, shape: tuple[int | None, ...], key: str) -> None:
        fits = len(shape) == value.ndim and all(
            want is None or want == have for want, have in zip(shape, value.shape, strict=True)
        )
        if not fits or 0 in value.shape:
            wanted = ", ".join("n" if want is None else str(want) for want in shape)
            raise self.fail(f"{key} of shape [{wanted}]", str(list(value.shape)))


def make_arrays(fetch: Fetch, origin: str, gender: str) -> BodyArrays:
    """Bring a model to the layout of ``BodyArrays``, and check it.

    Args:
        fetch: Gives the array of a key, or None; keys are those of the open body's file or smplx's.
        origin: Where it comes from, for the messages.
        gender: Gender of an SMPL file.

    Raises:
        ValueError: If an array is missing, misshapen, not finite, or not a body.
    """
    source = _Source(fetch, origin)
    v_template = source.floats((None, 3), "v_template")
    count = len(v_template)
    if count > _MOST_VERTICES:
        raise source.fail(f"at most {_MOST_VERTICES} vertices", str(count))
    _refuse_other_models(source, count)
    faces = source.indices((None, 3), count, "f", "faces")
    shapedirs = source.floats((count, 3, None), "shapedirs")
    if shapedirs.shape[2] < NUM_BETAS:
        raise source.fail(f"at least {NUM_BETAS} shape directions", str(shapedirs.shape[2]))
    joint_idx, joint_weight = _read_weights(source, count)
    regressor = _read_regressor(source, count)
    _check_units(source, v_template, regressor)
    model_id = _identify(source, v_template, faces, gender)
    uv = source.maybe("uv")
    return BodyArrays(
        model_id=model_id,
        v_template=v_template,
        faces=faces,
        shapedirs=np.ascontiguousarray(shapedirs[:, :, :NUM_BETAS]),
        posedirs=_read_posedirs(source, count),
        joint_idx=joint_idx,
        joint_weight=joint_weight,
        J_regressor=regressor,
        parents=_read_parents(source),
        vertex_picks=_read_picks(source, model_id, count),
        uv=None if uv is None else source.floats((None, 2), "uv"),
        faces_uv=None if uv is None else source.indices((len(faces), 3), len(uv), "fuv"),
        sym_idx=None
        if source.maybe("sym_idx") is None
        else source.indices((count,), count, "sym_idx"),
        keypoint_rows=_read_rows(source, count),
    )


def _refuse_other_models(source: _Source, count: int) -> None:
    """Say the name of a model that has other joints; shapes alone would be a riddle."""
    weights = source.maybe("weights")
    joints = weights.shape[1] if weights is not None and weights.ndim == 2 else None
    if joints == NUM_JOINTS or source.maybe("weight_idx") is not None:
        return
    name = _OTHER_MODELS.get(joints or 0)
    if name is not None:
        raise source.fail(
            f"SMPL's {NUM_JOINTS} joints", f"{name} ({count} vertices, {joints} joints)"
        )


def _check_units(
    source: _Source, v_template: npt.NDArray[np.float64], regressor: npt.NDArray[np.float64]
) -> None:
    """Raise ValueError unless the body stands upright along y and is as tall as people are."""
    extent = np.ptp(v_template, axis=0)
    tall = float(extent[1])
    shortest, tallest = _HEIGHT
    joints = regressor @ v_template
    if shortest <= tall <= tallest:
        if joints[_HEAD, 1] > joints[_ANKLES, 1].mean():
            return
        raise source.fail("a body that stands upright, y up", "the head below the ankles")
    for unit, metres in (("centimetres", 0.01), ("millimetres", 0.001), ("inches", 0.0254)):
        if 1.0 <= tall * metres <= 2.3:
            hint = f"; it looks like {unit}: convert v_template and shapedirs to metres"
            break
    else:
        is_up_z = shortest <= extent[2] <= tallest
        hint = "; it looks like z up: turn it to y up, the shape and pose directions too"
        hint = hint if is_up_z else ""
    raise ValueError(
        f"{_WHO}: expected a body {shortest} to {tallest} m tall along y, got {tall:.3g} in "
        f"{source.origin}{hint}"
    )


def with_template(arrays: BodyArrays, v_template: npt.ArrayLike) -> BodyArrays:
    """A body with another rest shape, metres; it is none of the known ones and is named so.

    Raises:
        ValueError: If the shape does not fit, is not finite, or is no body.
    """
    own: Mapping[str, Array] = {"v_template": np.asarray(v_template)}
    source = _Source(own.get, "the argument v_template")
    template = source.floats((arrays.num_vertices, 3), "v_template")
    _check_units(source, template, arrays.J_regressor)
    return replace(arrays, v_template=template, model_id=_custom_id(template, arrays.faces))


def _read_posedirs(source: _Source, count: int) -> npt.NDArray[np.float64]:
    if source.numbers("posedirs").ndim == 2:  # smplx keeps [207, 3V]
        flat = source.floats((NUM_POSE_FEATURES, 3 * count), "posedirs")
        return np.ascontiguousarray(flat.T.reshape(count, 3, NUM_POSE_FEATURES))
    return source.floats((count, 3, NUM_POSE_FEATURES), "posedirs")


def _read_weights(
    source: _Source, count: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    if source.maybe("weight_idx") is not None:
        joint_idx = source.indices((count, _NUM_WEIGHTS), NUM_JOINTS, "weight_idx")
        # Stored in half precision: normalised in float32, so that an export holds the same numbers.
        stored = source.floats((count, _NUM_WEIGHTS), "weight_val").astype(np.float32)
        _check_rows(source, "weight_val", stored.sum(1), tolerance=5e-3)
        stored /= stored.sum(1, keepdims=True)
        return joint_idx.astype(np.int32), stored.astype(np.float64)
    dense = source.floats((count, NUM_JOINTS), "weights")
    _check_rows(source, "weights", dense.sum(1))
    order = np.argsort(-np.abs(dense), axis=1, kind="stable")
    kept, lost = order[:, :_NUM_WEIGHTS], order[:, _NUM_WEIGHTS:]
    excess = np.abs(np.take_along_axis(dense, lost, 1)).sum(1).max()
    if excess > 1e-6:
        raise source.fail(f"at most {_NUM_WEIGHTS} joints per vertex", f"{excess:.2g} beyond them")
    weight = np.take_along_axis(dense, kept, 1)
    return np.where(weight != 0, kept, 0).astype(np.int32), weight


def _check_rows(source: _Source, key: str, sums: Array, tolerance: float = 1e-3) -> None:
    worst = float(np.abs(sums - 1).max())
    if worst > tolerance:
        raise source.fail(f"rows of {key} that sum to 1", f"an error of {worst:.3g}")


def _read_regressor(source: _Source, count: int) -> npt.NDArray[np.float64]:
    if source.maybe("J_data") is None:
        dense = source.floats((NUM_JOINTS, count), "J_regressor")
    else:
        dense = np.zeros((NUM_JOINTS, count))
        for joint, row in enumerate(_read_csr(source, "J", NUM_JOINTS, count)):
            np.add.at(dense[joint], row.indices, row.values)
    _check_rows(source, "J_regressor", dense.sum(1))
    return dense


def _read_csr(source: _Source, prefix: str, rows: int, count: int) -> list[VertexRow]:
    values = source.floats((None,), f"{prefix}_data")
    indices = source.indices((len(values),), count, f"{prefix}_indices")
    indptr = source.indices((rows + 1,), len(values) + 1, f"{prefix}_indptr")
    if indptr[0] != 0 or indptr[-1] != len(values) or (np.diff(indptr) < 0).any():
        raise source.fail(f"{prefix}_indptr that rises from 0 to {len(values)}", "another order")
    return [VertexRow(indices[a:b], values[a:b]) for a, b in itertools.pairwise(indptr)]


def _read_parents(source: _Source) -> npt.NDArray[np.int64]:
    table = source.maybe("parents")
    if table is None:
        table = source.numbers("kintree_table")
        source.check_shape(table, (2, NUM_JOINTS), "kintree_table")
        table = table[0]
    source.check_shape(table, (NUM_JOINTS,), "parents")
    if not np.isfinite(table).all():
        raise source.fail("finite parents", "NaN or infinity")
    parents = table.astype(np.int64)
    # Files hold -1 as an unsigned 32-bit number.
    parents = np.where(parents > NUM_JOINTS, -1, parents)
    if parents.tolist() != list(PARENTS):
        raise source.fail("SMPL's tree of 24 joints", f"parents {parents.tolist()}")
    return parents


def _read_rows(source: _Source, count: int) -> Mapping[str, VertexRow]:
    names = source.maybe("kp_names")
    if names is None:
        return {}
    if names.dtype.kind != "U" or names.ndim != 1:
        raise source.fail("kp_names as a list of texts", f"{names.dtype} {list(names.shape)}")
    rows = _read_csr(source, "kp", len(names), count)
    return dict(zip(names.tolist(), rows, strict=True))


def _read_picks(source: _Source, model_id: str, count: int) -> npt.NDArray[np.int64] | None:
    picks = source.maybe("vertex_picks")
    if picks is not None and picks.shape == (len(SMPL45_VERTICES),):
        return source.indices((len(SMPL45_VERTICES),), count, "vertex_picks")
    is_known = model_id in (OPEN_ID, "smil") or model_id.startswith("smpl-")
    return np.asarray(SMPL45_VERTICES, np.int64) if is_known else None


def _identify(source: _Source, v_template: Array, faces: Array, gender: str) -> str:
    """Name the model: by what the file says, by SMPL's sizes, or by the hash of its mesh."""
    stated = source.text("model_id")
    stated = None if stated is None else _FORMAT_IDS.get(stated, stated)
    is_open = (len(v_template), len(faces)) == _OPEN_SIZE and _is_open_template(v_template)
    # A copy of the open body must still be it: an older or changed one gets an id of its own.
    if stated is not None and (
        stated != OPEN_ID or is_open or source.maybe("kp_names") is not None
    ):
        return stated
    if (len(v_template), len(faces)) == _SMPL_SIZE:
        if np.ptp(v_template[:, 1]) < _INFANT:
            return "smil"
        known = gender if gender in ("neutral", "male", "female") else "unknown"
        return f"smpl-{known}"
    if is_open:
        return OPEN_ID
    return _custom_id(v_template, faces)


def _custom_id(v_template: Array, faces: Array) -> str:
    digest = hashlib.sha256(v_template.astype("<f4").tobytes() + faces.astype("<i8").tobytes())
    return f"custom-{digest.hexdigest()[:12]}"


def _is_open_template(v_template: Array) -> bool:
    """Tell the open body from others of its size, for example in a smplx object made of it."""
    if not asset_path().is_file():
        return False
    with np.load(asset_path(), allow_pickle=False) as file:
        return bool(np.array_equal(file["v_template"], v_template.astype(np.float32)))
