"""The body as a module: called as ``smplx.SMPL`` is, computed by the operators of ``ops``."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor, nn

from eft_fast import ops
from eft_fast.body.arrays import BodyArrays, to_smplx_arrays
from eft_fast.body.joints import BodyPoints, JointDefinitions, check_owner
from eft_fast.body.plan import make_mesh_plan, make_points_plan
from eft_fast.conventions import NUM_BETAS, NUM_JOINTS
from eft_fast.files import whole_file
from eft_fast.keypoints import JointSet

_NUM_BODY_JOINTS: Final = NUM_JOINTS - 1
#: Plans of a user's own points that a body keeps: a loop that defines them anew must not fill the
#: memory.
_MOST_OWN_PLANS: Final = 32


@dataclass(frozen=True)
class SmplOutput:
    """What a body call returns; names as in smplx.

    Attributes:
        vertices: Mesh in metres, or None if it was not asked for.
        joints: 24 kinematic joints, then the 21 vertices of face, feet and finger tips in the order
            of ``smpl45``; only the 24 for a custom body that does not name those vertices.
        betas: The shape that was used.
        global_orient: The root rotation that was used, axis-angle or matrix.
        body_pose: The other rotations that were used.
        full_pose: Root and body together.
        transl: The translation that was used, if any.
    """

    vertices: Float[Tensor, "B V 3"] | None
    joints: Float[Tensor, "B J 3"]
    betas: Float[Tensor, "B 10"]
    global_orient: Tensor
    body_pose: Tensor
    full_pose: Tensor
    transl: Float[Tensor, "B 3"] | None

    def __getitem__(self, name: str) -> Tensor | None:
        """The field of that name, as smplx's outputs give it."""
        if name not in self.__dataclass_fields__:
            raise KeyError(name)
        value: Tensor | None = getattr(self, name)
        return value


class Smpl(nn.Module):
    """A body model in SMPL's parameterisation.

    Holds no trainable parameter, and its buffers stay out of ``state_dict``: model data belongs in
    its own file. ``.to`` moves it and sets its floating type (float32 or float64).

    Args:
        arrays: Model data, from ``model_io.load_arrays``.
        landmarks: Regressor [9, V] of ``keypoints.LANDMARKS`` made for this body; None: the
            body's own landmarks, or documented stand-ins made of joints and vertices.
        dtype: float32 or float64. Plans are rounded to it once, from float64.
        backend: Of the operators: ``native``, ``torch`` (plain torch, for second derivatives and
            export), or ``auto``: native where it is built.

    Attributes:
        id: Name of the model, such as ``open-1`` or ``smpl-neutral``.
        arrays: Model data in float64.
        backend: Backend of the operators; may be set.
        faces: [F, 3] int64 numpy array, as in smplx; ``faces_tensor`` is the same as a tensor.
    """

    v_template: Float[Tensor, "V 3"]
    shapedirs: Float[Tensor, "V 3 10"]
    posedirs: Float[Tensor, "207 3*V"]
    J_regressor: Float[Tensor, "24 V"]
    lbs_weights: Float[Tensor, "V 24"]
    parents: Tensor
    faces_tensor: Tensor
    _picks: Tensor | None

    def __init__(
        self,
        arrays: BodyArrays,
        *,
        landmarks: npt.NDArray[np.float64] | None = None,
        dtype: torch.dtype = torch.float32,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.arrays = arrays
        self.id = arrays.model_id
        self.backend = backend
        self.faces = arrays.faces
        self._definitions = JointDefinitions(arrays, landmarks)
        self._plans: dict[Any, tuple[object, Any]] = {}
        smplx_arrays = to_smplx_arrays(arrays, np.float64)
        count = arrays.num_vertices
        for name, value in (
            ("v_template", smplx_arrays["v_template"]),
            ("shapedirs", smplx_arrays["shapedirs"]),
            ("posedirs", smplx_arrays["posedirs"].reshape(3 * count, -1).T),
            ("J_regressor", smplx_arrays["J_regressor"]),
            ("lbs_weights", smplx_arrays["weights"]),
            ("parents", arrays.parents),
            ("faces_tensor", arrays.faces),
        ):
            tensor = torch.from_numpy(np.array(value, order="C"))
            tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
            self.register_buffer(name, tensor, persistent=False)
        picks = arrays.vertex_picks
        picked = None if picks is None else torch.from_numpy(np.array(picks))
        self.register_buffer("_picks", picked, persistent=False)

    def extra_repr(self) -> str:
        """Name and size, for ``print``."""
        return f"{self.id}, {self.arrays.num_vertices} vertices"

    def forward(
        self,
        betas: Float[Tensor, "B 10"] | None = None,
        body_pose: Tensor | None = None,
        global_orient: Tensor | None = None,
        transl: Float[Tensor, "B 3"] | None = None,
        *,
        pose2rot: bool = True,
        return_verts: bool = True,
        return_full_pose: bool = True,
    ) -> SmplOutput:
        """Pose the body.

        What is left out is zero: mean shape, T-pose, no turn, no shift. Inputs of one person are
        repeated for the people of the others. Differentiable in all four inputs. Under
        ``torch.autocast`` inputs of half precision are taken and the body computes in its own type.

        Args:
            betas: Shape coefficients.
            body_pose: Rotations of the 23 joints below the root, relative to their parents:
                axis-angle [B, 69] or [B, 23, 3] in radians; matrices [B, 23, 3, 3] with
                ``pose2rot=False``.
            global_orient: Root rotation: [B, 3] or [B, 1, 3]; matrices [B, 1, 3, 3] or [B, 3, 3].
            transl: Added after posing, metres.
            pose2rot: Whether rotations are axis-angle.
            return_verts: Whether to compute the mesh; joints alone are much cheaper.
            return_full_pose: A keyword of smplx's; ``full_pose`` costs nothing and is always there.

        Raises:
            ValueError: If a shape, device or batch size does not fit.
            TypeError: If a floating type is not the body's.
        """
        betas, pose, transl = self._inputs(betas, body_pose, global_orient, transl, pose2rot)
        vertices = None
        with self._own_type():
            if return_verts:
                plan = self._plan("mesh", lambda: make_mesh_plan(self.arrays))
                vertices, joints = ops.smpl_mesh(plan, betas, pose, transl, backend=self.backend)
                if self._picks is not None:
                    joints = torch.cat([joints, vertices.index_select(1, self._picks)], 1)
            else:
                plan = self.points_plan("smpl24" if self._picks is None else "smpl45")
                joints = ops.smpl_points(plan, betas, pose, transl, backend=self.backend)
        return SmplOutput(vertices, joints, betas, pose[:, :1], pose[:, 1:], pose, transl)

    def keypoints(
        self,
        betas: Float[Tensor, "B 10"] | None,
        body_pose: Tensor | None,
        global_orient: Tensor | None,
        transl: Float[Tensor, "B 3"] | None = None,
        *,
        joint_set: str | JointSet | BodyPoints,
        pose2rot: bool = True,
    ) -> Float[Tensor, "B K 3"]:
        """Compute keypoints without the mesh, in metres; inputs are those of a call.

        Args:
            betas: Shape coefficients.
            body_pose: Rotations of the 23 joints below the root.
            global_orient: Root rotation.
            transl: Added after posing, metres.
            joint_set: Name of a joint set, or points of this body from ``joints.points_from_*``.
            pose2rot: Whether rotations are axis-angle.

        Raises:
            ValueError: If the set is unknown, or its points belong to another body.
        """
        plan = self.points_plan(joint_set)
        betas, pose, transl = self._inputs(betas, body_pose, global_orient, transl, pose2rot)
        with self._own_type():
            return ops.smpl_points(plan, betas, pose, transl, backend=self.backend)

    def joint_points(self, joint_set: str | JointSet) -> BodyPoints:
        """Tell what each joint of a set is on this body, and which are only approximate."""
        return self._definitions(joint_set)

    def export_smplx(self, path: str | os.PathLike[str]) -> None:
        """Write a pickle that ``smplx.SMPL(path)`` loads; plain arrays, no chumpy.

        The file holds the model itself: that of a licensed model falls under its licence.
        """
        target = Path(path).expanduser()
        if not target.parent.is_dir():
            raise FileNotFoundError(
                f"export_smplx: no folder {target.parent}; make it first, or name another"
            )
        content: dict[str, Any] = {"model_id": self.id, **to_smplx_arrays(self.arrays)}
        if self.arrays.vertex_picks is not None:
            content["vertex_picks"] = self.arrays.vertex_picks
        with whole_file(target) as file:
            pickle.dump(content, file, protocol=4)

    def points_plan(self, which: str | JointSet | BodyPoints) -> Any:
        """The prepared points of a joint set, for calling ``ops`` directly."""
        if isinstance(which, BodyPoints):
            check_owner(self.arrays, which.body_id, "the set of points")
            return self._plan(which, lambda: make_points_plan(self.arrays, which.rows))
        key = which if isinstance(which, str) else which.name
        return self._plan(key, lambda: make_points_plan(self.arrays, self._definitions(which).rows))

    def _plan(self, key: str | BodyPoints, make: Callable[[], Any]) -> Any:
        """Build a plan once per device and type; ``.to`` forgets them."""
        place = key if isinstance(key, str) else id(key)
        if place not in self._plans:
            own = [kept for kept in self._plans if not isinstance(kept, str)]
            if len(own) >= _MOST_OWN_PLANS:
                self._plans.pop(own[0], None)
            moved = make().to(self.v_template.device, self.v_template.dtype)
            # The key is kept alive, so that its id stays its own.
            self._plans[place] = (key, moved)
        return self._plans[place][1]

    def _is_autocast(self) -> bool:
        return torch.is_autocast_enabled(self.v_template.device.type)

    def _own_type(self) -> AbstractContextManager[object]:
        """Autocast would round matrix products of the plain torch backend to half precision."""
        if not self._is_autocast():
            return nullcontext()
        return torch.autocast(self.v_template.device.type, enabled=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Smpl:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._plans = {}
        return self

    def _inputs(
        self,
        betas: Tensor | None,
        body_pose: Tensor | None,
        global_orient: Tensor | None,
        transl: Tensor | None,
        pose2rot: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Check the inputs, fill in what is missing, and repeat single people."""
        rotation = (3,) if pose2rot else (3, 3)
        flat_body = (3 * _NUM_BODY_JOINTS,) if pose2rot else None
        given = {
            "betas": self._check("betas", betas, (NUM_BETAS,)),
            "body_pose": self._check(
                "body_pose", body_pose, (_NUM_BODY_JOINTS, *rotation), flat_body
            ),
            "global_orient": self._check("global_orient", global_orient, (1, *rotation), rotation),
            "transl": self._check("transl", transl, (3,)),
        }
        sizes = {value.shape[0] for value in given.values() if value is not None}
        people = sizes - {1} or sizes or {1}
        if len(people) > 1:
            each = ", ".join(f"{k} {v.shape[0]}" for k, v in given.items() if v is not None)
            raise ValueError(f"Smpl: inputs must be of as many people, got {each}")
        (count,) = people
        zeros = self.v_template.new_zeros

        # Made only where an input is missing: a fitting loop gives all of them in every call.
        def rest() -> Tensor:
            return zeros(3) if pose2rot else torch.eye(3).to(self.v_template)

        defaults = {
            "betas": lambda: zeros(1, NUM_BETAS),
            "body_pose": lambda: rest().expand(1, _NUM_BODY_JOINTS, *rotation),
            "global_orient": lambda: rest().expand(1, 1, *rotation),
        }
        full: dict[str, Tensor] = {}
        for name, value in given.items():
            value = defaults[name]() if value is None and name in defaults else value
            if value is not None:
                full[name] = value.expand(count, *value.shape[1:])
        pose = torch.cat([full["global_orient"], full["body_pose"]], 1)
        return full["betas"], pose, full.get("transl")

    def _check(
        self,
        name: str,
        value: Tensor | None,
        shape: tuple[int, ...],
        other: tuple[int, ...] | None = None,
    ) -> Tensor | None:
        """Check one input [B, *shape], or [B, *other], which is brought to ``shape``."""
        if value is None:
            return None
        if not isinstance(value, Tensor):
            raise TypeError(f"Smpl: {name} must be a tensor, got {type(value).__name__}")
        if tuple(value.shape[1:]) not in (shape, other) or value.ndim < 2:
            wanted = ", ".join(map(str, shape))
            hint = "; rotation matrices need pose2rot=False" if value.shape[-2:] == (3, 3) else ""
            raise ValueError(f"Smpl: {name} must be [B, {wanted}], got {list(value.shape)}{hint}")
        own = self.v_template.dtype
        if value.dtype != own:
            if not (value.is_floating_point() and self._is_autocast()):
                fits_body = value.dtype in (torch.float32, torch.float64)
                mend = f"body.to({value.dtype})" if fits_body else f"{name}.to({own})"
                raise TypeError(
                    f"Smpl: {name} must be {own} like the body, got {value.dtype}; call {mend}"
                )
            value = value.to(own)
        if value.device != self.v_template.device:
            raise ValueError(
                f"Smpl: {name} must be on {self.v_template.device} like the body, "
                f"got {value.device}; call body.to({str(value.device)!r})"
            )
        return value.reshape(value.shape[0], *shape)
