"""A person of a review as the page needs it: numbers, words and pictures."""

from __future__ import annotations

import io
import math
from typing import Any, Final

import numpy as np
from PIL import Image

from eft_fast.keypoints import JOINT_SETS
from eft_fast.pseudo_gt import to_words
from eft_fast.result import FitResult
from eft_fast.review.session import FLIPS, ReviewSession
from eft_fast.viz.overlay import side_view
from eft_fast.viz.page import data_uri, finite_or_none
from eft_fast.viz.raster import render_mesh
from eft_fast.viz.skeleton import side_of
from eft_fast.viz.worst import badness

#: Longer side of the part of the photo in which a body is drawn, pixels of the picture.
_DRAWN: Final = 640
#: What a page shows around a person, of the side of the box.
_AROUND: Final = 1.5


def describe_all(session: ReviewSession) -> list[dict[str, Any]]:
    """Everybody for the list of the page, worst first as in a report."""
    result, chosen = session.result, session.chosen
    errors = (result.kp_error_px / result.box_side_px).tolist()
    facts = zip(chosen.level, errors, result.stop_reason, result.message, strict=True)
    worst = [badness(*known, message=said) for *known, said in facts]
    return [
        {
            "row": row,
            "name": _name(session, row),
            "level": session.chosen.level[row],
            "edited": bool(session.edits.get(row)),
            "verdict": _verdict(session, row),
        }
        for row in sorted(range(len(session)), key=lambda k: (-worst[k][0], -worst[k][1], k))
    ]


def describe_person(session: ReviewSession, row: int) -> dict[str, Any]:
    """One person: keypoints, fit, pictures of the body, and what can be done."""
    fit, problem = session.result[row], ""
    try:
        fit = session.current(row)
    except ValueError as error:
        problem = str(error)
    gain, seconds = session.gain_mm(row) if not problem else (None, 0.0)
    said = session.verdicts.get(session.keys[row])
    found: dict[str, Any] = {
        "row": row,
        "name": _name(session, row),
        "level": session.chosen.level[row],
        "why": to_words(session.chosen.reasons[row] or session.chosen.doubts[row]),
        "message": fit.message[0],
        "problem": problem,
        "stopped": fit.stop_reason[0],
        "canAccept": session.can_accept(row),
        "verdict": _verdict(session, row),
        "note": "" if said is None else said.note,
        "flips": {name: name in session.edits[row].flips for name in FLIPS}
        if session.edits.get(row)
        else dict.fromkeys(FLIPS, False),
        "edited": bool(session.edits.get(row)),
        "milliseconds": round(1000 * seconds, 1),
        "before": _share(session.result, row),
        "after": _share(fit, 0),
        "sigma": None
        if fit.joint_sigma_mm is None
        else finite_or_none(float(fit.joint_sigma_mm.mean()), 5),
        "keypoints": _keypoints(session, row, fit),
        "edges": [list(edge) for edge in session.joints.edges],
        "suggestion": _suggest(session, row, fit, gain),
    }
    try:
        photo = session.photo(row)
    except ValueError as error:
        return found | {"photo": None, "problem": problem or str(error)}
    height, width = photo.shape[:2]
    view = _view(session, row, width, height)
    return found | {
        "photo": [width, height],
        "view": view,
        "body": _draw_body(fit, view),
        "side": _draw_side(fit),
    }


def encode_photo(photo: np.ndarray) -> bytes:
    """A photo as JPEG, upright and in its own pixels."""
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _name(session: ReviewSession, row: int) -> str:
    photo = session.photos[row].replace("\\", "/").rsplit("/", 1)[-1] if session.photos else ""
    return "  ".join(part for part in (photo, session.keys[row]) if part)


def _verdict(session: ReviewSession, row: int) -> str:
    said = session.verdicts.get(session.keys[row])
    return "" if said is None else said.verdict


def _share(result: FitResult, row: int) -> float | None:
    return finite_or_none(float(result.kp_error_px[row] / result.box_side_px[row]), 5)


def _keypoints(session: ReviewSession, row: int, fit: FitResult) -> list[dict[str, Any]]:
    """Each keypoint of the set: where it is given, where the fit has it, what it counts."""
    given = session.keypoints(row)
    projected = fit.keypoints_2d_px()[0].double().numpy()
    weight = fit.keypoint_weight
    counts = np.ones(len(given)) if weight is None else np.nan_to_num(weight[0].numpy(), nan=1.0)
    edited = session.edits[row].keypoints if session.edits.get(row) else {}
    return [
        {
            "name": name,
            "side": side_of(name),
            "at": [round(float(x), 2), round(float(y), 2)] if confidence > 0 else None,
            "fit": np.round(projected[k], 2).tolist() if np.isfinite(projected[k]).all() else None,
            "weak": bool(confidence > 0 and (confidence < 0.5 or counts[k] < 0.5)),
            "edited": k in edited,
        }
        for k, (name, (x, y, confidence)) in enumerate(
            zip(session.joints.names, given, strict=True)
        )
    ]


def _suggest(
    session: ReviewSession, row: int, fit: FitResult, gain: np.ndarray | None
) -> dict[str, Any] | None:
    """The keypoint that would make the fit surest, if it were given; None where nothing is known.

    Until a person has been fitted again, the posterior at hand is the joints' own radii: then it is
    the keypoint that is not given of the joint that is known worst.
    """
    missing = session.keypoints(row)[:, 2] <= 0
    names = session.joints.names
    if gain is not None and (missing & (gain > 0)).any():
        place = int(np.where(missing, gain, -1).argmax())
        words = f"{names[place]} would make the joints surer by {gain[place]:.0f} mm"
        return {"keypoint": place, "words": words}
    sigma = fit.joint_sigma_mm
    if gain is not None or sigma is None:
        return None
    known = _radius_by_name(sigma[0].double().numpy())
    open_ones = [k for k, name in enumerate(names) if missing[k] and name in known]
    if not open_ones:
        return None
    place = max(open_ones, key=lambda k: known[names[k]])
    words = f"{names[place]} is known to {known[names[place]]:.0f} mm alone"
    return {"keypoint": place, "words": words}


def _radius_by_name(sigma: np.ndarray) -> dict[str, float]:
    names = JOINT_SETS["smpl24"].names
    return {name: float(s) for name, s in zip(names, sigma, strict=True) if math.isfinite(s)}


def _view(session: ReviewSession, row: int, width: int, height: int) -> list[float]:
    """The part of the photo that is shown: x, y, width, height; the whole where no box is known."""
    side = float(session.result.box_side_px[row]) * _AROUND
    x, y = session.result.bbox_center[row].double().tolist()
    if not (math.isfinite(side) and math.isfinite(x) and math.isfinite(y)):
        return [0, 0, width, height]
    return [x - side / 2, y - side / 2, side, side]


def _draw_body(fit: FitResult, view: list[float]) -> dict[str, Any] | None:
    """The body on its own, as large as the view: PNG with transparency."""
    vertices = fit.to_photo(fit.vertices())[0].double().numpy()
    if not np.isfinite(vertices).all():
        return None
    x, y, width, height = view
    scale = _DRAWN / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    moved = (vertices - [x, y, 0]) * scale
    drawn = render_mesh(moved, fit.body().faces, height=size[1], width=size[0], samples=2)
    return {"at": view, "data": _png(drawn.rgba)}


def _draw_side(fit: FitResult) -> str:
    vertices = fit.to_photo(fit.vertices())[0].double().numpy()
    if not np.isfinite(vertices).all():
        return ""
    return _png(side_view(vertices, fit.body().faces, height=300, width=200, samples=2))


def _png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return data_uri("image/png", buffer.getvalue())
