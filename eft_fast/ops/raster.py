"""Draw triangle meshes into pictures on the CPU: z-buffer, sub-samples, any vertex attributes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from eft_fast.ops import _load

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

    image: Float[Tensor, "H W C"]
    coverage: Float[Tensor, "H W"]
    depth: Float[Tensor, "H W"]


def rasterize(
    vertices: Float[Tensor, "V 3"],
    faces: Integer[Tensor, "F 3"],
    attributes: Float[Tensor, "V C"],
    *,
    height: int,
    width: int,
    samples: int = 2,
    perspective: bool = False,
) -> Raster:
    """Draw a mesh and interpolate its vertex attributes.

    The nearest triangle wins; at equal depth the earlier one does. Both sides of a triangle are
    drawn. Triangles without area, with a vertex that is not finite, more than half a million pixels
    away or, with ``perspective``, at z <= 0, are left out. A repeat gives the same bits, whatever
    the number of threads. Not differentiable: the result carries no gradient.

    Args:
        vertices: x and y in pixels, where pixel (0, 0) has its centre at (0, 0); z in any unit,
            smaller is nearer. Taken as float32.
        faces: Indices of the vertices.
        attributes: What to interpolate, such as colours or normals; C may be 0.
        height: Rows of the picture.
        width: Columns of the picture.
        samples: Sub-samples along each side of a pixel, 1 to 8.
        perspective: z is a distance along the view axis, and attributes are straight in space, not
            on the picture.

    Returns:
        The picture, its coverage and its depth, float32.

    Raises:
        ValueError: If shapes do not agree, an index points at no vertex, or the picture has no
            or too many sub-samples.
        TypeError: If ``faces`` are not integers.

    Example:
        >>> picture = rasterize(vertices, faces, colours, height=256, width=256)
        >>> rgb = picture.image + (1 - picture.coverage[..., None]) * background
    """
    _check_mesh(vertices, faces, attributes)
    _check_size(height, width, samples)
    image, coverage, depth = _operator()(
        vertices.detach().to("cpu", torch.float32).contiguous(),
        faces.detach().to("cpu", torch.int32).contiguous(),
        attributes.detach().to("cpu", torch.float32).contiguous(),
        height,
        width,
        samples,
        perspective,
    )
    return Raster(image, coverage, depth)


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
    for name, tensor in (("vertices", vertices), ("faces", faces)):
        if tensor.ndim != 2 or tensor.shape[1] != 3:
            raise ValueError(
                f"rasterize: {name} must be [N, 3], got {list(tensor.shape)}; "
                "draw one mesh per call"
            )
    if faces.is_floating_point():
        raise TypeError(f"rasterize: faces must be integers, got {faces.dtype}")
    if attributes.ndim != 2 or attributes.shape[0] != vertices.shape[0]:
        raise ValueError(
            f"rasterize: attributes must be [V, C] with V = {vertices.shape[0]} as in vertices, "
            f"got {list(attributes.shape)}"
        )
    if faces.numel():
        low, high = (int(bound) for bound in torch.aminmax(faces))
        if low < 0 or high >= vertices.shape[0]:
            raise ValueError(
                f"rasterize: faces must index the {vertices.shape[0]} vertices, "
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


@lru_cache(maxsize=1)
def _operator() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Load the library at the first picture, so that an import needs no build."""
    _load.load()
    torch.library.register_fake("eft_fast::rasterize", _rasterize_fake)
    operator: Callable[..., tuple[Tensor, Tensor, Tensor]] = torch.ops.eft_fast.rasterize
    return operator


def _rasterize_fake(
    vertices: Tensor,
    faces: Tensor,
    attributes: Tensor,
    height: int,
    width: int,
    samples: int,
    perspective: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        vertices.new_empty(height, width, attributes.shape[1]),
        vertices.new_empty(height, width),
        vertices.new_empty(height, width),
    )
