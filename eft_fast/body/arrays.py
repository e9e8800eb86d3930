"""The arrays of a body model in one layout, and their form for smplx."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from eft_fast.conventions import NUM_JOINTS


@dataclass(frozen=True)
class VertexRow:
    """A sparse weighted sum of vertices.

    Attributes:
        indices: [n] vertex ids.
        values: [n] weights.
    """

    indices: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


@dataclass(frozen=True)
class BodyArrays:
    """A body model as float64 numpy arrays, metres, y up in the rest pose.

    Attributes:
        model_id: ``open-1``, ``smpl-neutral`` (``-male``, ``-female``, ``-unknown``), ``smil``, or
            ``custom-`` and twelve hexadecimal digits of a hash.
        v_template: [V, 3].
        faces: [F, 3] int64.
        shapedirs: [V, 3, 10].
        posedirs: [V, 3, 207].
        joint_idx: [V, 4] int32, the joints that move a vertex, heaviest first.
        joint_weight: [V, 4]; unused slots are joint 0 with weight 0.
        J_regressor: [24, V].
        parents: [24] int64, -1 at the root.
        vertex_picks: [21] vertices behind the joints 24 to 44 of smpl45, if known.
        uv: [U, 2] texture coordinates, if any.
        faces_uv: [F, 3] int64 texture coordinate of each face corner, if any.
        sym_idx: [V] int64, the mirrored vertex of each vertex, if known.
        keypoint_rows: Landmarks by name.
    """

    model_id: str
    v_template: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int64]
    shapedirs: npt.NDArray[np.float64]
    posedirs: npt.NDArray[np.float64]
    joint_idx: npt.NDArray[np.int32]
    joint_weight: npt.NDArray[np.float64]
    J_regressor: npt.NDArray[np.float64]
    parents: npt.NDArray[np.int64]
    vertex_picks: npt.NDArray[np.int64] | None = None
    uv: npt.NDArray[np.float64] | None = None
    faces_uv: npt.NDArray[np.int64] | None = None
    sym_idx: npt.NDArray[np.int64] | None = None
    keypoint_rows: Mapping[str, VertexRow] = field(default_factory=dict)

    @property
    def num_vertices(self) -> int:
        """Number of vertices V."""
        return len(self.v_template)

    @property
    def family(self) -> str:
        """``open-1`` itself, ``smpl`` for every SMPL, or the custom id: what regressors name."""
        return "smpl" if self.model_id.startswith("smpl-") else self.model_id

    def weights_dense(self) -> npt.NDArray[np.float64]:
        """Skinning weights as [V, 24]."""
        dense = np.zeros((self.num_vertices, NUM_JOINTS))
        np.add.at(dense, (np.arange(self.num_vertices)[:, None], self.joint_idx), self.joint_weight)
        return dense


def to_smplx_arrays(
    arrays: BodyArrays, dtype: npt.DTypeLike = np.float32
) -> dict[str, npt.NDArray[Any]]:
    """Expand to the names and shapes that ``smplx.SMPL`` reads.

    The result serves as ``data_struct=smplx.utils.Struct(**arrays)`` and as the content of a
    pickle.

    Args:
        arrays: The body.
        dtype: Floating type of the result.
    """
    kintree = np.stack([arrays.parents, np.arange(NUM_JOINTS)])
    floats = {
        "v_template": arrays.v_template,
        "shapedirs": arrays.shapedirs,
        "posedirs": arrays.posedirs,
        "J_regressor": arrays.J_regressor,
        "weights": arrays.weights_dense(),
    }
    return {
        **{name: value.astype(dtype) for name, value in floats.items()},
        "f": arrays.faces,
        "kintree_table": kintree,
    }
