"""3D and 2D measures, one value per person, computed in float64.

``pred`` and ``gt`` are ``[N, J, 3]`` in metres, numpy arrays or torch tensors; what comes back is
of the kind of ``pred``, in metres. A person with a number that is not finite gets NaN.
"""

from __future__ import annotations

from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.geometry.rotations import matrix_to_axis_angle

Array = TypeVar("Array", npt.NDArray[np.floating], Tensor)
#: One joint, or several whose midpoint is meant.
Root = int | tuple[int, ...] | None

#: Thresholds of the usual area under the 3D PCK curve: 0 to 150 mm in steps of 5 mm. The first one
#: is 0, where nothing counts, so that the area cannot exceed 30/31.
AUC_LIMIT: Final = 0.15
AUC_STEPS: Final = 31


def mpjpe(pred: Array, gt: Array, *, root: Root = None) -> Array:
    """Mean distance between joints.

    Args:
        pred: Joints ``[N, J, 3]``, metres.
        gt: The true ones.
        root: Joint, or joints whose midpoint, is moved to the origin on each side first; None: the
            joints are compared where they are.

    Returns:
        One distance per person, metres.
    """
    p, g = _to_pair("mpjpe", pred, gt)
    p, g = _to_root("mpjpe", p, root), _to_root("mpjpe", g, root)
    return _like(pred, (p - g).norm(dim=-1).mean(-1))


def pa_mpjpe(pred: Array, gt: Array, *, with_scale: bool = True) -> Array:
    """Mean distance between joints after each person's best similarity transform of ``pred``.

    Rotation, translation and scale (Umeyama); never a reflection.

    Args:
        pred: Joints ``[N, J, 3]``, metres.
        gt: The true ones.
        with_scale: False: rotation and translation only.
    """
    p, g = _to_pair("pa_mpjpe", pred, gt)
    return _like(pred, (_align(p, g, with_scale) - g).norm(dim=-1).mean(-1))


def mpjpe_of(
    pred: Array, gt: Array, which: Array, *, root: Root = None, is_aligned: bool = False
) -> Array:
    """Mean distance between chosen joints, such as those that nobody saw.

    Args:
        pred: Joints ``[N, J, 3]``, metres.
        gt: The true ones.
        which: Whether each joint of each person counts ``[N, J]``.
        root: As of ``mpjpe``.
        is_aligned: Move ``pred`` first as ``pa_mpjpe`` does, by all joints, chosen or not.

    Returns:
        One distance per person, metres; NaN for who has no chosen joint.

    Raises:
        ValueError: If shapes disagree, or both a root and alignment are asked for.
    """
    p, g = _to_pair("mpjpe_of", pred, gt)
    chosen = torch.as_tensor(which, dtype=torch.bool, device=p.device)
    if chosen.shape != p.shape[:2]:
        raise ValueError(
            f"mpjpe_of: which must be {list(p.shape[:2])} like the joints, got {list(chosen.shape)}"
        )
    if is_aligned and root is not None:
        raise ValueError(f"mpjpe_of: aligned joints have no root, got root {root}; leave one out")
    p = _align(p, g, True) if is_aligned else _to_root("mpjpe_of", p, root)
    distance = (p - (g if is_aligned else _to_root("mpjpe_of", g, root))).norm(dim=-1)
    total = torch.where(chosen, distance, 0.0).sum(-1)
    is_known = chosen.any(-1) & torch.isfinite(distance).all(-1)
    return _like(pred, torch.where(is_known, total / chosen.sum(-1).clamp_min(1), float("nan")))


def n_mpjpe(pred: Array, gt: Array, *, root: Root = None) -> Array:
    """Mean distance between joints after the best scale of ``pred`` about the root."""
    p, g = _to_pair("n_mpjpe", pred, gt)
    p, g = _to_root("n_mpjpe", p, root), _to_root("n_mpjpe", g, root)
    scale = (p * g).sum((1, 2)) / (p * p).sum((1, 2))
    return _like(pred, (scale[:, None, None] * p - g).norm(dim=-1).mean(-1))


def pve(
    pred: Array, gt: Array, *, pred_root: Array | None = None, gt_root: Array | None = None
) -> Array:
    """Mean distance between vertices.

    Args:
        pred: Vertices ``[N, V, 3]``, metres.
        gt: The true ones.
        pred_root: Point ``[N, 3]`` of each person that is moved to the origin; None: nothing moves.
        gt_root: The same for ``gt``.
    """
    p, g = _to_pair("pve", pred, gt)
    for name, value in (("pred_root", pred_root), ("gt_root", gt_root)):
        if value is not None and tuple(value.shape) != (len(p), 3):
            raise ValueError(f"pve: {name} must be [{len(p)}, 3], got {list(value.shape)}")
    if (pred_root is None) != (gt_root is None):
        raise ValueError("pve: pred_root and gt_root must both be given or both be None, got one")
    if pred_root is not None and gt_root is not None:
        p, g = p - _to_double(pred_root)[:, None], g - _to_double(gt_root)[:, None]
    return _like(pred, (p - g).norm(dim=-1).mean(-1))


def pck3d(pred: Array, gt: Array, *, threshold: float = AUC_LIMIT, root: Root = None) -> Array:
    """Share of joints that are nearer than ``threshold`` metres."""
    distance = _distances("pck3d", pred, gt, root)
    return _like(pred, _share(distance, threshold))


def auc3d(
    pred: Array,
    gt: Array,
    *,
    limit: float = AUC_LIMIT,
    steps: int = AUC_STEPS,
    root: Root = None,
) -> Array:
    """Mean of ``pck3d`` over ``steps`` thresholds from 0, which is included, to ``limit``."""
    if steps < 2:
        raise ValueError(f"auc3d: steps must be at least 2, got {steps}")
    distance = _distances("auc3d", pred, gt, root)
    thresholds = np.linspace(0, limit, steps)
    return _like(pred, torch.stack([_share(distance, float(t)) for t in thresholds]).mean(0))


def acceleration_error(pred: Array, gt: Array, valid: npt.ArrayLike | None = None) -> Array:
    """Mean distance between the joints' second differences along a clip.

    Args:
        pred: Joints of F successive frames ``[F, J, 3]``, metres.
        gt: The true ones.
        valid: Whether each frame counts; a frame that does not kills its three windows.

    Returns:
        Metres per frame squared, one value for each of the F - 2 windows that count. Multiply by
        the square of the frame rate for metres per second squared.
    """
    p, g = _to_pair("acceleration_error", pred, gt)
    second = (p[:-2] - 2 * p[1:-1] + p[2:]) - (g[:-2] - 2 * g[1:-1] + g[2:])
    error = second.norm(dim=-1).mean(-1)
    if valid is not None:
        mask = torch.as_tensor(np.asarray(valid), dtype=torch.bool, device=p.device)
        if mask.shape != (len(p),):
            raise ValueError(
                f"acceleration_error: valid must be [{len(p)}], got {list(mask.shape)}"
            )
        error = error[mask[:-2] & mask[1:-1] & mask[2:]]
    return _like(pred, error)


def rotation_error(pred: Array, gt: Array) -> Array:
    """Mean angle between rotations ``[N, J, 3, 3]``, radians, one value per person."""
    p, g = _to_double(pred), _to_double(gt)
    if p.ndim != 4 or p.shape[2:] != (3, 3) or p.shape != g.shape:
        raise ValueError(
            f"rotation_error: pred and gt must be [N, J, 3, 3], got {list(p.shape)} and "
            f"{list(g.shape)}"
        )
    return _like(pred, matrix_to_axis_angle(p.transpose(2, 3) @ g).norm(dim=-1).mean(-1))


def keypoint_distances_px(
    pred: Float[np.ndarray, "N K 2"], gt: Float[np.ndarray, "N K 3"]
) -> npt.NDArray[np.float64]:
    """Distance of each projected to each given keypoint; NaN where not labelled."""
    p, g = np.asarray(pred, np.float64), np.asarray(gt, np.float64)
    if p.ndim != 3 or p.shape[-1] != 2 or g.shape != (*p.shape[:2], 3):
        raise ValueError(
            f"keypoint_distances_px: pred must be [N, K, 2] and gt [N, K, 3], got {list(p.shape)} "
            f"and {list(g.shape)}"
        )
    distance = np.linalg.norm(p - g[..., :2], axis=-1)
    return np.where(g[..., 2] > 0, distance, np.nan)


def reprojection_error(
    pred: Float[np.ndarray, "N K 2"], gt: Float[np.ndarray, "N K 3"]
) -> npt.NDArray[np.float64]:
    """Mean distance to the labelled keypoints of each person, in their unit; NaN without any."""
    distance = keypoint_distances_px(pred, gt)
    labelled = ~np.isnan(distance) | (np.asarray(gt)[..., 2] > 0)
    count = labelled.sum(1)
    total = np.where(labelled, distance, 0.0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def pck(
    distance: Float[Tensor, "N K"], size: Float[Tensor, " N"], *, fraction: float = 0.1
) -> float:
    """Share of labelled keypoints that lie within ``fraction`` of the person's size.

    Args:
        distance: Distances in pixels; NaN where a keypoint is not labelled.
        size: Size of each person in pixels, usually the root of the box area.
        fraction: Tolerance as a part of the size.

    Returns:
        A share in [0, 1] over all keypoints of all people; NaN if none is labelled.
    """
    if distance.ndim != 2 or size.shape != distance.shape[:1]:
        raise ValueError(
            f"pck: distance must be [N, K] and size [N], "
            f"got {list(distance.shape)} and {list(size.shape)}"
        )
    labelled = ~distance.isnan()
    within = (distance < fraction * size[:, None]) & labelled
    count = int(labelled.sum())
    return float(within.sum()) / count if count else float("nan")


def part_scores(
    pred: npt.NDArray[np.integer],
    gt: npt.NDArray[np.integer],
    *,
    classes: int,
    ignore: int = 255,
) -> tuple[float, float]:
    """Pixel accuracy and F1 of label images, as in the part segmentation of LSP.

    Args:
        pred: Labels 0 .. classes - 1, of any shape; 0 is the background and is a class as well.
        gt: The true ones; pixels of the label ``ignore`` do not count.
        classes: Number of classes with the background: 2 for masks, 7 for the six parts.
        ignore: Label of pixels that nobody knows.

    Returns:
        Share of right pixels, and the mean of F1 over classes. A class that neither side holds
        counts as right.
    """
    if pred.shape != gt.shape:
        raise ValueError(
            f"part_scores: pred must be {list(gt.shape)} like gt, got {list(pred.shape)}"
        )
    known = gt != ignore
    p, g = pred[known], gt[known]
    if p.size == 0:
        return float("nan"), float("nan")
    if min(p.min(), g.min()) < 0 or max(p.max(), g.max()) >= classes:
        raise ValueError(f"part_scores: labels must be 0 to {classes - 1}, or {ignore} in gt")
    pair = np.bincount(classes * g.astype(np.int64) + p, minlength=classes**2)
    table = pair.reshape(classes, classes)
    hit, both = table.diagonal(), table.sum(0) + table.sum(1)
    f1 = np.where(both > 0, 2 * hit / np.maximum(both, 1), 1.0)
    return float(hit.sum() / p.size), float(f1.mean())


def bootstrap_interval(
    values: npt.ArrayLike, *, level: float = 0.95, rounds: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean of per-person values by resampling people; NaN people are left out."""
    sample = np.asarray(values, dtype=np.float64)
    sample = sample[np.isfinite(sample)]
    if sample.ndim != 1 or not 0 < level < 1:
        raise ValueError(f"bootstrap_interval: values must be [N] and level in (0, 1), got {level}")
    if sample.size == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = [sample[rng.integers(sample.size, size=sample.size)].mean() for _ in range(rounds)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_of_known(values: npt.NDArray[np.floating]) -> float:
    """Mean over people who have a value; NaN, without a warning, if nobody has."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def mean_row(name: str, values: npt.NDArray[np.floating]) -> dict[str, float]:
    """A measure's mean over people as ``name``, its 95 % interval as ``_low`` and ``_high``."""
    low, high = bootstrap_interval(values)
    return {name: mean_of_known(values), f"{name}_low": low, f"{name}_high": high}


def _to_double(value: npt.NDArray[np.floating] | Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().double()
    return torch.from_numpy(np.array(value, dtype=np.float64))


def _to_pair(who: str, pred: Array, gt: Array) -> tuple[Tensor, Tensor]:
    for name, value in (("pred", pred), ("gt", gt)):
        if not isinstance(value, np.ndarray | Tensor):
            raise TypeError(
                f"{who}: {name} must be a numpy array or a tensor, got {type(value).__name__}"
            )
    p, g = _to_double(pred), _to_double(gt)
    if p.ndim != 3 or p.shape[-1] != 3 or p.shape != g.shape:
        raise ValueError(
            f"{who}: pred and gt must be [N, J, 3], got {list(p.shape)} and {list(g.shape)}"
        )
    return p, g.to(p.device)


def _like(pred: Array, value: Tensor) -> Array:
    return value if isinstance(pred, Tensor) else value.cpu().numpy()


def _to_root(who: str, points: Tensor, root: Root) -> Tensor:
    if root is None:
        return points
    places = [root] if isinstance(root, int) else list(root)
    if not places or not all(0 <= place < points.shape[1] for place in places):
        raise ValueError(f"{who}: root must name joints 0 to {points.shape[1] - 1}, got {root}")
    return points - points[:, places].mean(1, keepdim=True)


def _distances(who: str, pred: Array, gt: Array, root: Root) -> Tensor:
    p, g = _to_pair(who, pred, gt)
    distance: Tensor = (_to_root(who, p, root) - _to_root(who, g, root)).norm(dim=-1)
    return distance


def _share(distance: Tensor, threshold: float) -> Tensor:
    share = (distance < threshold).double().mean(-1)
    return torch.where(torch.isfinite(distance).all(-1), share, float("nan"))


def _align(p: Tensor, g: Tensor, with_scale: bool) -> Tensor:
    """Umeyama: R = V Z U^T of the covariance P^T G = U S V^T, scale = trace(S Z) / |P|^2."""
    is_finite = torch.isfinite(p).flatten(1).all(1) & torch.isfinite(g).flatten(1).all(1)
    # The decomposition refuses NaN for everybody, so bad people take part as zeros.
    mask = is_finite[:, None, None]
    p, g = torch.where(mask, p, 0.0), torch.where(mask, g, 0.0)
    p_mean, g_mean = p.mean(1, keepdim=True), g.mean(1, keepdim=True)
    p0, g0 = p - p_mean, g - g_mean
    u, s, vt = torch.linalg.svd(p0.transpose(1, 2) @ g0)
    z = torch.ones_like(s)
    z[:, -1] = torch.where(torch.linalg.det(u @ vt) < 0, -1.0, 1.0)
    rotated: Tensor = p0 @ (u * z[:, None]) @ vt
    if with_scale:
        spread = p0.square().sum((1, 2))
        scale = (s * z).sum(1) / torch.where(spread > 0, spread, 1.0)
        rotated = scale[:, None, None] * rotated
    moved: Tensor = rotated + g_mean
    answer: Tensor = torch.where(mask, moved, float("nan"))
    return answer
