"""The keypoints of a body inside a regressor, which sees where its own answer lies.

A regressor knows no body model, so the prepared points of its body (``ops.plans.PointsPlan``) are
buffers of the network and are saved with its weights. Nothing here is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eft_fast.conventions import NUM_JOINTS, PARENTS
from eft_fast.ops import smpl_points
from eft_fast.ops.plans import COEFFICIENTS, COEFFICIENTS_PADDED, PointsPlan
from eft_fast.ops.reference import kinematic_chain

#: Parts of a plan that are stored, with their shapes in terms of ``KeypointRig.sizes``; the parents
#: are those of SMPL, and the transposed basis follows from the basis.
_STORED: Final[Mapping[str, tuple[int | str, ...]]] = {
    "skeleton": (NUM_JOINTS, 3, 11),
    "basis": (COEFFICIENTS, 3, "rows"),
    "term_index": ("terms", 3),
    "term_weight": ("terms", 2),
    "joint_index": ("joints", 2),
    "joint_weight": ("joints",),
    "transl_weight": ("sources",),
    "output_index": ("points",),
}
#: Those of them that are whole numbers; weights files hold real numbers only.
_INDICES: Final = frozenset({"term_index", "joint_index", "output_index"})
#: What sizes a rig has.
SIZES: Final = ("points", "rows", "terms", "joints", "sources")


class KeypointRig(nn.Module):
    """Keypoints of posed bodies, metres, about the body's own origin.

    Args:
        sizes: Lengths of the parts by the names of ``SIZES``, as ``sizes`` of another rig.
    """

    skeleton: Tensor
    basis: Tensor
    term_index: Tensor
    term_weight: Tensor
    joint_index: Tensor
    joint_weight: Tensor
    transl_weight: Tensor
    output_index: Tensor

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.sizes = {name: int(sizes[name]) for name in SIZES}
        for name, shape in _STORED.items():
            lengths = [self.sizes[n] if isinstance(n, str) else n for n in shape]
            self.register_buffer(name, torch.zeros(lengths))
        self._plan: tuple[tuple[object, ...], PointsPlan] | None = None

    @classmethod
    def from_plan(cls, plan: PointsPlan) -> KeypointRig:
        """The rig of the points of a plan, whose body has SMPL's tree of joints.

        Raises:
            ValueError: If the joints hang together in another way.
        """
        if plan.parents.tolist() != list(PARENTS):
            raise ValueError(
                f"KeypointRig: joints must hang together as {list(PARENTS)}, got "
                f"{plan.parents.tolist()}; use a body with SMPL's skeleton"
            )
        lengths: dict[str, int] = {}
        for name, shape in _STORED.items():
            pairs = zip(shape, getattr(plan, name).shape, strict=True)
            lengths |= {n: size for n, size in pairs if isinstance(n, str)}
        rig = cls(lengths)
        for name in _STORED:
            getattr(rig, name).copy_(getattr(plan, name))
        return rig

    @property
    def plan(self) -> PointsPlan:
        """The plan of the buffers, where they are."""
        parts = {name: getattr(self, name) for name in _STORED}
        stamp = tuple((part.data_ptr(), part._version, part.dtype) for part in parts.values())
        if self._plan is None or self._plan[0] != stamp:
            self._plan = (stamp, self._make_plan(parts))
        return self._plan[1]

    def _make_plan(self, parts: Mapping[str, Tensor]) -> PointsPlan:
        rows = self.basis.permute(1, 2, 0).reshape(-1, COEFFICIENTS)
        flat = nn.functional.pad(rows, (0, COEFFICIENTS_PADDED - COEFFICIENTS))
        made = {name: part.int() if name in _INDICES else part for name, part in parts.items()}
        parents = torch.tensor(PARENTS, dtype=torch.int32, device=rows.device)
        return PointsPlan(parents=parents, basis_t=flat.contiguous(), **made)

    def forward(
        self, rotmat: Float[Tensor, "B 24 3 3"], betas: Float[Tensor, "B 10"]
    ) -> Float[Tensor, "B K 3"]:
        """Place the keypoints."""
        return smpl_points(self.plan, betas, rotmat)

    def chain(
        self, rotmat: Float[Tensor, "B 24 3 3"], betas: Float[Tensor, "B 10"]
    ) -> tuple[Float[Tensor, "B 24 3 3"], Float[Tensor, "B 24 3"]]:
        """Rotations of the kinematic joints in the world, and their places in metres."""
        world, joints, _ = kinematic_chain(betas, rotmat, self.skeleton, PARENTS)
        return world, joints
