"""Draw triangle meshes into pictures: z-buffer, sub-samples, any vertex attributes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from eft_fast.ops._operators import Operator

#: Most sub-samples along one side of a pixel, and of a picture.
MAX_SAMPLES = 8
MAX_SIDE = 65536


class Raster(NamedTuple):
    """A drawn mesh.

    Attributes:
        image: Vertex attributes averaged over the sub-samples of a pixel; uncovered ones count
            as 0, so the values are premultiplied by ``coverage``.
        coverage: Share of a pixel's sub-samples that the mesh covers, in [0, 1].
        depth: z of the nearest covered sub-sample; infinity where there is none.
    """

    image: Float[Tensor, "*batch H W C"]
    coverage: Float[Tensor, "*batch H W"]
    depth: Float[Tensor, "*batch H W"]


def rasterize(
    vertices: Float[Tensor, "*batch V 3"],
    faces: Integer[Tensor, "F 3"],
    attributes: Float[Tensor, "*batch V C"],
    *,
    height: int,
    width: int,
    samples: int = 2,
    perspective: bool = False,
) -> Raster:
    """Draw a mesh, or B meshes of the same faces, and interpolate their vertex attributes.

    The nearest triangle wins; at equal depth the earlier one does. Both sides of a triangle are
    drawn. Triangles without area, with a vertex that is not finite, more than half a million pixels
    away or, with ``perspective``, at z <= 0, are left out. A repeat gives the same bits, whatever
    the number of threads or of other pictures. Not differentiable: the result carries no gradient.

    Runs where ``vertices`` are, on the CPU or a GPU. A GPU does not read the indices first, as it
    would have to wait for them: there, faces that point at no vertex are left out.

    Args:
        vertices: x and y in pixels, where pixel (0, 0) has its centre at (0, 0); z in any unit,
            smaller is nearer. [V, 3] or [B, V, 3], taken as float32.
        faces: Indices of the vertices, the same for all.
        attributes: What to interpolate, such as colours or normals; C may be 0.
        height: Rows of the picture.
        width: Columns of the picture.
        samples: Sub-samples along each side of a pixel, 1 to 8.
        perspective: z is a distance along the view axis, and attributes are straight in space, not
            on the picture.

    Returns:
        The picture, its coverage and its depth, float32.

    Raises:
        ValueError: If shapes do not agree, an index points at no vertex (CPU), or the picture has
            no or too many sub-samples.
        TypeError: If ``faces`` are not integers.

    Example:
        >>> picture = rasterize(vertices, faces, colours, height=256, width=256)
        >>> rgb = picture.image + (1 - picture.coverage[..., None]) * background
    """
    _check_mesh(vertices, faces, attributes)
    _check_size(height, width, samples)
    device, is_single = vertices.device, vertices.ndim == 2
    points, values = (vertices[None], attributes[None]) if is_single else (vertices, attributes)
    drawn = _RASTERIZE(
        points.detach().to(device, torch.float32).contiguous(),
        faces.detach().to(device, torch.int32).contiguous(),
        values.detach().to(device, torch.float32).contiguous(),
        height,
        width,
        samples,
        perspective,
    )
    return Raster(*(part[0] if is_single else part for part in drawn))


def vertex_normals(
    vertices: Float[Tensor, "*batch V 3"], faces: Integer[Tensor, "F 3"]
) -> Float[Tensor, "*batch V 3"]:
    """Unit normals of a mesh, each the area-weighted mean over the triangles around a vertex.

    They point to the side from which the vertices of a face run counter-clockwise in right-handed
    axes. A vertex without triangles, or whose normals cancel, gets zeros.

    Args:
        vertices: Points, in any unit.
        faces: Indices of the vertices.

    Returns:
        Normals, in the type of ``vertices``; differentiable.
    """
    index = faces.to(vertices.device, torch.int64)
    a, b, c = (vertices[..., index[:, k], :] for k in range(3))
    face_normals = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    for k in range(3):
        total = total.index_add(-2, index[:, k], face_normals)
    return torch.nn.functional.normalize(total, dim=-1, eps=1e-20)


def _check_mesh(vertices: Tensor, faces: Tensor, attributes: Tensor) -> None:
    if vertices.ndim not in (2, 3) or vertices.shape[-1] != 3:
        raise ValueError(
            f"rasterize: vertices must be [V, 3] or [B, V, 3], got {list(vertices.shape)}"
        )
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"rasterize: faces must be [F, 3], got {list(faces.shape)}")
    if faces.is_floating_point():
        raise TypeError(f"rasterize: faces must be integers, got {faces.dtype}")
    if attributes.ndim != vertices.ndim or attributes.shape[:-1] != vertices.shape[:-1]:
        expected = ", ".join(map(str, vertices.shape[:-1]))
        raise ValueError(
            f"rasterize: attributes must be [{expected}, C] as in vertices, "
            f"got {list(attributes.shape)}"
        )
    if faces.numel() and faces.device.type == "cpu":
        low, high = (int(bound) for bound in torch.aminmax(faces))
        if low < 0 or high >= vertices.shape[-2]:
            raise ValueError(
                f"rasterize: faces must index the {vertices.shape[-2]} vertices, "
                f"got {low if low < 0 else high}"
            )


def _check_size(height: int, width: int, samples: int) -> None:
    if not 1 <= samples <= MAX_SAMPLES:
        raise ValueError(f"rasterize: samples must be 1 to {MAX_SAMPLES}, got {samples}")
    for name, side in (("height", height), ("width", width)):
        if not 1 <= side <= MAX_SIDE // samples:
            raise ValueError(
                f"rasterize: {name} must be 1 to {MAX_SIDE // samples} pixels at {samples} "
                f"samples, got {side}"
            )


def _rasterize_fake(
    vertices: Tensor,
    faces: Tensor,
    attributes: Tensor,
    height: int,
    width: int,
    samples: int,
    perspective: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    size = (vertices.shape[0], height, width)
    return (
        vertices.new_empty(*size, attributes.shape[2]),
        vertices.new_empty(size),
        vertices.new_empty(size),
    )


_RASTERIZE = Operator("rasterize", _rasterize_fake, refuses_vmap=False)
