"""The body in the exported graph, in operations that every runtime knows.

It is computed from dense constants with matrix products and index selections. The twins of
``ops.reference`` say the same in fewer numbers, but with scatters, which TensorRT does not run, and
with sizes read in Python, which freeze the batch dimension.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eft_fast.body.plan import make_mesh_plan, make_points_plan
from eft_fast.body.smpl import Smpl
from eft_fast.models.base import Regressor
from eft_fast.models.keypoint_rig import KeypointRig
from eft_fast.ops.plans import PointsPlan
from eft_fast.ops.reference import tree_levels


class BodyGraph(nn.Module):
    """Joints, and vertices if asked for, of bodies given by shape and rotation matrices.

    Args:
        plan: The joints, in their order.
        mesh: The body whose vertices are computed as well; None: no mesh.
    """

    rest_base: Tensor
    rest_basis: Tensor
    offset_base: Tensor
    offset_basis: Tensor
    points_basis: Tensor
    term_joint: Tensor
    term_weight: Tensor
    from_terms: Tensor
    from_joints: Tensor
    level_order: Tensor
    mesh_basis: Tensor
    weights: Tensor

    def __init__(self, plan: PointsPlan, mesh: Smpl | None = None) -> None:
        super().__init__()
        self.with_vertices = mesh is not None
        plan = plan.to("cpu", torch.float64)
        self._set_chain(plan.skeleton, plan.parents.tolist())

        term_row, term_joint, term_source = plan.term_index.long().unbind(1)
        alpha, omega = plan.term_weight.unbind(1)
        terms = torch.arange(len(term_row))
        from_terms = torch.zeros(len(plan.transl_weight), len(terms), dtype=torch.float64)
        from_terms[term_source, terms] = 1.0
        joint, source = plan.joint_index.long().unbind(1)
        from_joints = torch.zeros(len(plan.transl_weight), 24, dtype=torch.float64)
        from_joints.index_put_((source, joint), plan.joint_weight, accumulate=True)
        order = plan.output_index.long()
        rows = plan.basis.permute(0, 2, 1).index_select(1, term_row)  # [218, N, 3]
        self._keep("points_basis", (rows * alpha[:, None]).reshape(218, -1))
        self._keep("term_weight", omega[:, None])
        self._keep("from_terms", from_terms.index_select(0, order))
        self._keep("from_joints", from_joints.index_select(0, order))
        self.register_buffer("term_joint", term_joint, persistent=False)
        if mesh is not None:
            self._set_mesh(mesh)

    @classmethod
    def of(cls, body: Smpl, joint_set: str, *, with_vertices: bool) -> BodyGraph:
        """The joints of a body in the order of a set, and perhaps its vertices."""
        plan = make_points_plan(body.arrays, body.joint_points(joint_set).rows)
        return cls(plan, body if with_vertices else None)

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.float().contiguous(), persistent=False)

    def _set_chain(self, skeleton: Tensor, parents: list[int]) -> None:
        """Joints by their depth in the tree: one product per level instead of one per joint."""
        levels = tree_levels(parents)
        self.levels = levels[1:]
        place = {joint: i for level in levels for i, joint in enumerate(level)}
        for number, level in enumerate(self.levels):
            index = torch.tensor(level)
            above = torch.tensor([place[parents[joint]] for joint in level])
            self.register_buffer(f"level{number}", index, persistent=False)
            self.register_buffer(f"above{number}", above, persistent=False)
        flat = [joint for level in levels for joint in level]
        inverse = torch.argsort(torch.tensor(flat))
        self.register_buffer("level_order", inverse, persistent=False)
        parent_index = torch.tensor(parents).clamp_min(0)
        offsets = skeleton - skeleton.index_select(0, parent_index)
        offsets[0] = skeleton[0]
        self._keep("rest_base", skeleton[..., 0].reshape(1, -1))
        self._keep("rest_basis", skeleton[..., 1:].reshape(72, 10).T)
        self._keep("offset_base", offsets[..., 0].reshape(1, -1))
        self._keep("offset_basis", offsets[..., 1:].reshape(72, 10).T)

    def _set_mesh(self, body: Smpl) -> None:
        plan = make_mesh_plan(body.arrays).to("cpu", torch.float64)
        count = plan.num_vertices
        basis = plan.basis.permute(1, 0, 3, 2).reshape(218, -1, 3)[:, :count]
        self._keep("mesh_basis", basis.reshape(218, -1))
        self._keep("weights", torch.from_numpy(body.arrays.weights_dense()))

    def _level(self, number: int) -> tuple[Tensor, Tensor]:
        return getattr(self, f"level{number}"), getattr(self, f"above{number}")

    def forward(
        self, betas: Float[Tensor, "B 10"], rotmat: Float[Tensor, "B 24 3 3"]
    ) -> tuple[Tensor, ...]:
        """Joints [B, K, 3], and vertices [B, V, 3] if asked for, in metres."""
        rotations, places = self.chain(betas, rotmat)
        rest = (self.rest_base + betas @ self.rest_basis).reshape(-1, 24, 3)
        shifts = places - (rotations @ rest.unsqueeze(-1)).squeeze(-1)
        identity = torch.eye(3, dtype=betas.dtype)
        features = torch.cat([betas, (rotmat[:, 1:] - identity).reshape(-1, 207)], 1)

        posed = _from_basis(features, self.points_basis)
        turn = rotations.index_select(1, self.term_joint)
        terms = (turn @ posed.unsqueeze(-1)).squeeze(-1)
        terms = terms + self.term_weight * shifts.index_select(1, self.term_joint)
        joints = self.from_terms @ terms + self.from_joints @ places
        if not self.with_vertices:
            return (joints,)
        transforms = torch.cat([rotations, shifts.unsqueeze(-1)], -1).reshape(-1, 24, 12)
        blended = (self.weights @ transforms).reshape(-1, self.weights.shape[0], 3, 4)
        vertices = _from_basis(features, self.mesh_basis).unsqueeze(-1)
        return joints, (blended[..., :3] @ vertices).squeeze(-1) + blended[..., 3]

    def chain(self, betas: Tensor, rotmat: Tensor) -> tuple[Tensor, Tensor]:
        """World rotation and place of each joint."""
        offsets = (self.offset_base + betas @ self.offset_basis).reshape(-1, 24, 3, 1)
        world, place = rotmat[:, :1], offsets[:, :1]
        worlds, places = [world], [place]
        for number in range(len(self.levels)):
            index, above = self._level(number)
            parent = world.index_select(1, above)
            place = place.index_select(1, above) + parent @ offsets.index_select(1, index)
            world = parent @ rotmat.index_select(1, index)
            worlds.append(world)
            places.append(place)
        rotations = torch.cat(worlds, 1).index_select(1, self.level_order)
        joints = torch.cat(places, 1).index_select(1, self.level_order).squeeze(-1)
        return rotations, joints


class RigGraph(nn.Module):
    """A ``KeypointRig`` in such operations; called in the same way."""

    def __init__(self, rig: KeypointRig) -> None:
        super().__init__()
        self.graph = BodyGraph(rig.plan)

    def forward(
        self, rotmat: Float[Tensor, "B 24 3 3"], betas: Float[Tensor, "B 10"]
    ) -> Float[Tensor, "B K 3"]:
        """Place the keypoints."""
        points: Tensor = self.graph(betas, rotmat)[0]
        return points

    def chain(
        self, rotmat: Float[Tensor, "B 24 3 3"], betas: Float[Tensor, "B 10"]
    ) -> tuple[Float[Tensor, "B 24 3 3"], Float[Tensor, "B 24 3"]]:
        """See ``KeypointRig.chain``."""
        return self.graph.chain(betas, rotmat)


def with_rig_graphs(regressor: Regressor) -> Regressor:
    """The network with ``RigGraph`` in place of its rigs; itself if it has none."""
    if not any(isinstance(module, KeypointRig) for module in regressor.modules()):
        return regressor
    copied = copy.deepcopy(regressor)
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if isinstance(child, KeypointRig):
                setattr(parent, name, RigGraph(child))
    return copied


def _from_basis(features: Tensor, basis: Tensor) -> Tensor:
    """[B, 217] features times the basis [218, 3 K], whose first row is constant: [B, K, 3]."""
    return (basis[:1] + features @ basis[1:]).reshape(-1, basis.shape[1] // 3, 3)
