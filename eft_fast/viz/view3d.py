"""Fitted bodies in 3D as one HTML page: WebGL, no network, no library."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from eft_fast.files import write_text
from eft_fast.result import FitResult
from eft_fast.viz.page import make_environment, script_json

#: Steps of a coordinate: a body of two metres is stored to a thirtieth of a millimetre.
_STEPS: Final = 65535


def write_view(
    path: str | Path, result: FitResult, names: Sequence[str], *, limit: int = 50
) -> int:
    """Write a page with the bodies before and after the fit.

    Args:
        path: File to write; its folder is made.
        result: The fits; those of another body than the open one need ``with_body``.
        names: What to call each person.
        limit: People at most, from the first on: each takes about 200 kB.

    Returns:
        How many people are on the page: those whose fit is finite. With nobody, none is written.

    Raises:
        ValueError: If there are more or fewer names than fits, or the path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"write_view: a file name expected, got the folder {path}")
    if len(names) != len(result):
        raise ValueError(
            f"write_view: one name per fit expected, got {len(names)} for {len(result)}"
        )
    finite = np.isfinite(result.params.full_pose.numpy()).all((1, 2, 3))
    finite &= np.isfinite(result.params.betas.numpy()).all(1)
    rows = np.flatnonzero(finite)[:limit].tolist()
    if not rows:
        return 0
    shown = result[rows]
    meshes = {which: shown.vertices(which).numpy() for which in ("init", "final")}
    people = [
        _person(shown, k, names[row], {w: m[k] for w, m in meshes.items()})
        for k, row in enumerate(rows)
    ]
    faces = np.asarray(shown.body().faces, dtype="<u4")
    content = {"faces": _base64(faces), "people": people}
    page = (
        make_environment()
        .get_template("view.html.j2")
        .render(
            content=script_json(content),
            left_out=int(finite.sum()) - len(rows),
            failed=int((~finite).sum()),
            body=shown.body_id,
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page, errors="backslashreplace")
    return len(rows)


def _person(
    result: FitResult, row: int, name: str, meshes: dict[str, Float[np.ndarray, "V 3"]]
) -> dict[str, Any]:
    before, after = float(result.init_kp_error_px[row]), float(result.kp_error_px[row])
    return {
        "name": name,
        "before": round(before, 2) if math.isfinite(before) else None,
        "after": round(after, 2) if math.isfinite(after) else None,
        "meshes": {which: _pack(mesh) for which, mesh in meshes.items()},
    }


def _pack(vertices: Float[np.ndarray, "V 3"]) -> dict[str, Any]:
    """Turn a body upright (y up) and store it in 16 bits a coordinate."""
    upright = vertices * np.array([1.0, -1.0, -1.0])
    low, high = upright.min(0), upright.max(0)
    step = np.maximum(high - low, 1e-6) / _STEPS
    data = np.rint((upright - low) / step).astype("<u2")
    return {"low": low.tolist(), "step": step.tolist(), "data": _base64(data)}


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
