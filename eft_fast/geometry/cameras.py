"""Cameras of crops and photos. Camera frame: x right, y down, z forward, metres.

``pred_cam`` = (s, tx, ty) is a weak-perspective camera of the square crop: u = s*X + t, u in
[-1, 1] over the crop (``scale_shift``). Networks trained as HMR or SPIN use s*(X + t)
(``shift_scale``); their camera is converted once, before anybody else sees it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.conventions import BOX_UNIT, FOCAL_LENGTH, HMR_CROP, MIN_DEPTH


def _check_cam(who: str, pred_cam: Tensor) -> None:
    if pred_cam.ndim != 2 or pred_cam.shape[-1] != 3:
        raise ValueError(f"{who}: pred_cam must be [B, 3], got {list(pred_cam.shape)}")


def _check_intrinsics(who: str, intrinsics: Tensor, people: int) -> None:
    if tuple(intrinsics.shape) != (people, 3, 3):
        raise ValueError(
            f"{who}: intrinsics must be [{people}, 3, 3], got {list(intrinsics.shape)}"
        )


def _check_points(who: str, points: Tensor, size: int, people: int) -> None:
    if points.ndim != 3 or points.shape[-1] != size or points.shape[0] != people:
        raise ValueError(
            f"{who}: points must be [B, K, {size}] with B = {people}, got {list(points.shape)}"
        )


def _with_scale_floor(scale: Tensor) -> Tensor:
    """Keep a division by the scale finite: 1e-9, as SPIN adds, away from zero on either side."""
    return scale + torch.where(scale < 0, -1e-9, 1e-9)


def to_scale_shift(pred_cam: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3"]:
    """Convert a camera s*(X + t) to s*X + t: t is multiplied by s."""
    _check_cam("to_scale_shift", pred_cam)
    return torch.cat([pred_cam[:, :1], pred_cam[:, :1] * pred_cam[:, 1:]], 1)


def to_shift_scale(pred_cam: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3"]:
    """Convert a camera s*X + t to s*(X + t): t is divided by s."""
    _check_cam("to_shift_scale", pred_cam)
    return torch.cat([pred_cam[:, :1], pred_cam[:, 1:] / _with_scale_floor(pred_cam[:, :1])], 1)


def weak_project(
    points: Float[Tensor, "B K 3"], pred_cam: Float[Tensor, "B 3"]
) -> Float[Tensor, "B K 2"]:
    """Project metres to [-1, 1] of the crop: u = s*X + t, depth is ignored."""
    _check_cam("weak_project", pred_cam)
    _check_points("weak_project", points, 3, pred_cam.shape[0])
    return pred_cam[:, None, :1] * points[..., :2] + pred_cam[:, None, 1:]


def fit_weak_camera(
    points: Float[Tensor, "B K 3"],
    projected: Float[Tensor, "B K 2"],
    weight: Float[Tensor, "B K"] | None = None,
) -> Float[Tensor, "B 3"]:
    """Return the weak camera s, tx, ty, u = s*X + t, with the least squared error in 2D.

    Args:
        points: Points in metres, camera axes.
        projected: Where they are seen, in [-1, 1] of the crop.
        weight: What each counts; points of weight 0 may hold anything finite. None: all alike.
    """
    flat = points[..., :2]
    if weight is None:
        flat_mean, mean = flat.mean(1, keepdim=True), projected.mean(1, keepdim=True)
        part: Tensor = torch.ones_like(flat[..., :1])
    else:
        part = weight[..., None]
        share = part / part.sum(1, keepdim=True).clamp_min(1e-9)
        flat_mean = (flat * share).sum(1, keepdim=True)
        mean = (projected * share).sum(1, keepdim=True)
    spread = (part * (flat - flat_mean).square()).sum((1, 2)).clamp_min(1e-9)
    scale = (part * (flat - flat_mean) * (projected - mean)).sum((1, 2)) / spread
    shift = mean[:, 0] - scale[:, None] * flat_mean[:, 0]
    return torch.cat([scale[:, None], shift], 1)


def crop_to_image(
    points: Float[Tensor, "B K 2"],
    bbox_center: Float[Tensor, "B 2"],
    bbox_scale: Float[Tensor, " B"],
) -> Float[Tensor, "B K 2"]:
    """Take points in [-1, 1] of the crop to pixels of the photo: x = c + u * side / 2.

    Args:
        points: u and v in [-1, 1] of each crop.
        bbox_center: Centre of each crop, photo pixels.
        bbox_scale: Side of each crop over 200 px.
    """
    _check_points("crop_to_image", points, 2, bbox_scale.shape[0])
    half_side = BOX_UNIT / 2 * bbox_scale
    return bbox_center[:, None] + half_side[:, None, None] * points


def to_cam_transl(
    pred_cam: Float[Tensor, "B 3"],
    *,
    focal_length: float = FOCAL_LENGTH,
    crop_size: float = HMR_CROP,
) -> Float[Tensor, "B 3"]:
    """Place the body before a pinhole that looks at the middle of the crop, in metres.

    The translation is (tx/s, ty/s, 2f/(crop_size s)); f counts pixels of the crop.
    """
    _check_cam("to_cam_transl", pred_cam)
    scale = _with_scale_floor(pred_cam[:, :1])
    return torch.cat([pred_cam[:, 1:] / scale, 2 * focal_length / (crop_size * scale)], 1)


def to_weak_camera(
    cam_transl: Float[Tensor, "B 3"],
    *,
    focal_length: float = FOCAL_LENGTH,
    crop_size: float = HMR_CROP,
) -> Float[Tensor, "B 3"]:
    """Undo ``to_cam_transl``: the weak camera s*X + t that agrees in the plane of the root."""
    if cam_transl.ndim != 2 or cam_transl.shape[-1] != 3:
        raise ValueError(f"to_weak_camera: cam_transl must be [B, 3], got {list(cam_transl.shape)}")
    scale = 2 * focal_length / (crop_size * _with_scale_floor(cam_transl[:, 2:]))
    return torch.cat([scale, scale * cam_transl[:, :2]], 1)


def crop_intrinsics(
    intrinsics: Float[Tensor, "B 3 3"],
    bbox_center: Float[Tensor, "B 2"],
    bbox_scale: Float[Tensor, " B"],
) -> Float[Tensor, "B 3 3"]:
    """Turn the pinhole of a photo, pixels, into that of each crop, which images to [-1, 1]."""
    _check_intrinsics("crop_intrinsics", intrinsics, len(bbox_scale))
    half_side = BOX_UNIT / 2 * bbox_scale[:, None, None]
    shifted = intrinsics.clone()
    shifted[:, :2, 2] -= bbox_center
    return torch.cat([shifted[:, :2] / half_side, intrinsics[:, 2:]], 1)


def photo_intrinsics(
    intrinsics: Float[Tensor, "B 3 3"],
    bbox_center: Float[Tensor, "B 2"],
    bbox_scale: Float[Tensor, " B"],
) -> Float[Tensor, "B 3 3"]:
    """Undo ``crop_intrinsics``: the pinhole of each crop as one of the photo, pixels."""
    _check_intrinsics("photo_intrinsics", intrinsics, len(bbox_scale))
    half_side = BOX_UNIT / 2 * bbox_scale[:, None, None]
    photo = torch.cat([intrinsics[:, :2] * half_side, intrinsics[:, 2:]], 1)
    photo[:, :2, 2] += bbox_center
    return photo


def weak_to_pinhole(
    pred_cam: Float[Tensor, "B 3"], intrinsics: Float[Tensor, "B 3 3"]
) -> Float[Tensor, "B 3"]:
    """Place the body before a pinhole where the weak camera of the same picture sees it, metres.

    Z = f_x / s; the root lands exactly where the weak camera puts it, and a person parallel to the
    picture has the weak camera's size.

    Args:
        pred_cam: (s, tx, ty), u = s*X + t.
        intrinsics: Pinhole that images to the same u, such as ``crop_intrinsics``; no skew.
    """
    _check_cam("weak_to_pinhole", pred_cam)
    _check_intrinsics("weak_to_pinhole", intrinsics, len(pred_cam))
    focal = intrinsics.diagonal(dim1=1, dim2=2)[:, :2]
    depth = focal[:, :1] / _with_scale_floor(pred_cam[:, :1])
    return torch.cat([(pred_cam[:, 1:] - intrinsics[:, :2, 2]) * depth / focal, depth], 1)


def pinhole_to_weak(
    cam_transl: Float[Tensor, "B 3"], intrinsics: Float[Tensor, "B 3 3"]
) -> Float[Tensor, "B 3"]:
    """Undo ``weak_to_pinhole``: the weak camera that agrees in the plane of the root."""
    _check_cam("pinhole_to_weak", cam_transl)
    _check_intrinsics("pinhole_to_weak", intrinsics, len(cam_transl))
    focal = intrinsics.diagonal(dim1=1, dim2=2)[:, :2]
    depth = _with_scale_floor(cam_transl[:, 2:])
    return torch.cat(
        [focal[:, :1] / depth, focal * cam_transl[:, :2] / depth + intrinsics[:, :2, 2]], 1
    )


def image_pinhole(
    pred_cam: Float[Tensor, "B 3"],
    bbox_center: Float[Tensor, "B 2"],
    bbox_scale: Float[Tensor, " B"],
    focal_length: Float[Tensor, " B"] | float,
    principal: Float[Tensor, "B 2"],
) -> Float[Tensor, "B 3"]:
    """Place the body before the pinhole of the whole photo, in metres.

    With side h of the crop: Z = F/(s h/2), T_x = tx/s + (c_x - p_x) Z/F, and y alike. A point in
    the body's root plane lands where the weak-perspective camera puts it.

    Args:
        pred_cam: Camera of the crop, s*X + t.
        bbox_center: Centre of the crop, photo pixels.
        bbox_scale: Side of the crop over 200 px.
        focal_length: Focal length of the photo, pixels.
        principal: Principal point of the photo, pixels.
    """
    _check_cam("image_pinhole", pred_cam)
    scale = _with_scale_floor(pred_cam[:, 0])
    per_pixel = 1 / (scale * BOX_UNIT / 2 * bbox_scale)  # metres per photo pixel in the root plane
    shift = pred_cam[:, 1:] / scale[:, None] + (bbox_center - principal) * per_pixel[:, None]
    return torch.cat([shift, (focal_length * per_pixel)[:, None]], 1)


def project_intrinsics(
    points: Float[Tensor, "B K 3"], intrinsics: Float[Tensor, "B 3 3"]
) -> Float[Tensor, "B K 2"]:
    """Project points of the camera frame, metres: u = K X / X_z, X_z held at 1 mm or more."""
    _check_intrinsics("project_intrinsics", intrinsics, len(points))
    _check_points("project_intrinsics", points, 3, len(points))
    flat = points[..., :2] / points[..., 2:].clamp_min(MIN_DEPTH)
    # Sums instead of a product of matrices, whose rounding is not batch-invariant.
    columns = intrinsics[:, None, :2]
    return flat[..., :1] * columns[..., 0] + flat[..., 1:] * columns[..., 1] + columns[..., 2]


def project_pinhole(
    points: Float[Tensor, "B K 3"],
    cam_transl: Float[Tensor, "B 3"],
    focal_length: Float[Tensor, " B"] | float,
    principal: Float[Tensor, "B 2"],
) -> Float[Tensor, "B K 2"]:
    """Project metres to pixels: x = F (X + T)_x / (X + T)_z + p. Points behind are not clipped."""
    _check_points("project_pinhole", points, 3, cam_transl.shape[0])
    moved = points + cam_transl[:, None]
    focal = torch.as_tensor(focal_length, dtype=points.dtype, device=points.device)
    return focal.reshape(-1, 1, 1) * moved[..., :2] / moved[..., 2:] + principal[:, None]
