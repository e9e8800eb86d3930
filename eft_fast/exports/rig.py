"""A person as animators know one: a mesh at rest, joints, weights, and how the joints turn.

The skinning of glTF and USD is SMPL's: v = sum_j w_j G_j G_rest,j^-1 (rest + sum_k m_k target_k).
SMPL's pose correctives (``posedirs``), which neither knows, are such targets: the offsets of the
frames D [F, 3V] are written as m T with few rows of T, by the singular value decomposition; of one
frame one row says all. Their weights m belong to the frames: in another pose they are wrong, and
may be set to zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from jaxtyping import Float, Int

from eft_fast.conventions import NUM_BETAS
from eft_fast.geometry.cameras import to_cam_transl
from eft_fast.result import FitResult

if TYPE_CHECKING:
    from eft_fast.body.arrays import BodyArrays

#: SMPL's joints as rigs and retargeting tools call them, in the order of ``smpl24``.
JOINT_NAMES: Final = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle",
    "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar",
    "head", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist",
    "right_wrist", "left_hand", "right_hand",
)  # fmt: skip
#: Of a motion whose photos say nothing about time.
FRAME_RATE: Final = 30.0
#: From camera axes (y down, z forward) to y up.
UPRIGHT: Final = np.diag([1.0, -1.0, -1.0])
#: Pose correctives take as many targets as bring every vertex of every frame this near, metres ...
_NEAR: Final = 1e-4
#: ... but no more than this.
MOST_CORRECTIVES: Final = 16


@dataclass(frozen=True, eq=False)
class Rig:
    """One person with a skeleton, upright (y up), in metres. F frames; a still has one.

    Attributes:
        body_id: Body model.
        parents: Parent of each joint of ``JOINT_NAMES``, -1 at the root.
        rest_joints: Places of the joints at rest, of the person's own shape.
        rest_vertices: Mesh at rest, before ``targets``.
        faces: Indices of the vertices, counter-clockwise from outside.
        joint_idx: The four joints that move a vertex.
        joint_weight: What each of them counts; sums to 1.
        rotations: Of each joint relative to its parent; the root's in the world.
        root_position: Place of the root joint.
        target_names: ``pose_corrective_1`` and so on; with shape targets ``shape_1`` to
            ``shape_10`` before them.
        targets: Offsets of the vertices at rest.
        target_weights: What each target counts in each frame.
        has_shape_targets: The shape lies in targets, and ``rest_vertices`` is the mean body;
            otherwise it is baked into ``rest_vertices``.
        corrective_error_m: Largest distance of a vertex, at rest, that is lost with the pose
            correctives beyond ``targets``.
        frame_rate: Frames per second.
    """

    body_id: str
    parents: Int[np.ndarray, " 24"]
    rest_joints: Float[np.ndarray, "24 3"]
    rest_vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "f 3"]
    joint_idx: Int[np.ndarray, "V 4"]
    joint_weight: Float[np.ndarray, "V 4"]
    rotations: Float[np.ndarray, "F 24 3 3"]
    root_position: Float[np.ndarray, "F 3"]
    target_names: tuple[str, ...]
    targets: Float[np.ndarray, "M V 3"]
    target_weights: Float[np.ndarray, "F M"]
    has_shape_targets: bool
    corrective_error_m: float
    frame_rate: float

    def local_offsets(self) -> Float[np.ndarray, "24 3"]:
        """Place of each joint at rest from its parent's; the root's from the origin."""
        offsets: np.ndarray = self.rest_joints.copy()
        offsets[1:] -= self.rest_joints[self.parents[1:]]
        return offsets

    def facts(self) -> dict[str, str | float | int]:
        """What a reader of the file should know, in words and numbers."""
        return {
            "body": self.body_id,
            "shape": "targets shape_1 to shape_10" if self.has_shape_targets else "baked",
            "pose_corrective_targets": sum(n.startswith("pose") for n in self.target_names),
            "pose_corrective_error_mm": round(1000 * self.corrective_error_m, 4),
        }


def make_rig(
    result: FitResult,
    *,
    is_one_person: bool = False,
    frame_rate: float = FRAME_RATE,
    feet_on_ground: bool = False,
    shape_targets: bool = False,
) -> Rig:
    """Turn fits of one person into a rig: a row is a frame, the shape is their mean.

    The root starts where the body model has it, at the origin of the body, and moves from there as
    it does before the camera: with the photo's pinhole where fits have one, else with the crop's
    nominal one, whose depths say nothing. Up is up in the picture: how the camera was tilted is not
    known.

    Args:
        result: The fits, all of them finite.
        is_one_person: Several rows are frames of one person, which a result does not tell.
        frame_rate: Frames per second.
        feet_on_ground: Shift the person so that the lowest vertex of all frames is at y = 0.
        shape_targets: Give the shape as targets on the mean body, to be changed later; joints stay
            those of the person. Otherwise it is baked.

    Raises:
        ValueError: If there is no row, several and nobody says that they are one person's, a
            number is not finite, or the frame rate is not positive.
    """
    _check(result, is_one_person, frame_rate)
    body = result.body()
    arrays = body.arrays
    betas = result.params.betas.double().mean(0).numpy()
    rotmat = result.params.full_pose.double().numpy()
    shaped = arrays.v_template + arrays.shapedirs @ betas
    rest_joints = arrays.J_regressor @ shaped
    moved = _camera_places(result)
    rotations = rotmat.copy()
    rotations[:, 0] = UPRIGHT @ rotmat[:, 0]
    shift = (moved - moved[0]) @ UPRIGHT
    if feet_on_ground:
        shift[:, 1] -= _lowest(result, betas, shift[:, 1])
    root_position = rest_joints[0] @ UPRIGHT + shift
    weights, targets, error = _correctives(arrays, rotmat)
    names = [f"pose_corrective_{k + 1}" for k in range(len(targets))]
    if shape_targets:
        names = [f"shape_{k + 1}" for k in range(NUM_BETAS)] + names
        targets = np.concatenate([np.moveaxis(arrays.shapedirs, 2, 0), targets])
        weights = np.concatenate([np.tile(betas, (len(result), 1)), weights], 1)
    return Rig(
        body_id=result.body_id,
        parents=arrays.parents,
        rest_joints=rest_joints,
        rest_vertices=arrays.v_template if shape_targets else shaped,
        faces=arrays.faces,
        joint_idx=arrays.joint_idx,
        joint_weight=_positive(arrays.joint_weight),
        rotations=rotations,
        root_position=root_position,
        target_names=tuple(names),
        targets=targets,
        target_weights=weights,
        has_shape_targets=shape_targets,
        corrective_error_m=error,
        frame_rate=float(frame_rate),
    )


def _check(result: FitResult, is_one_person: bool, frame_rate: float) -> None:
    if not len(result) or (len(result) > 1 and not is_one_person):
        raise ValueError(
            f"make_rig: a rig is of one person, got {len(result)} rows; give one, or say "
            "is_one_person=True if they are frames of one"
        )
    params = result.params
    if not bool(torch.isfinite(params.full_pose).all() and torch.isfinite(params.betas).all()):
        raise ValueError("make_rig: the fits must be finite, got NaN; leave those rows out")
    if not 0 < frame_rate < np.inf:
        raise ValueError(f"make_rig: frame_rate must be positive, got {frame_rate:g}")


def _camera_places(result: FitResult) -> Float[np.ndarray, "F 3"]:
    """Where the body's origin stands in the camera frame; zero for a still of no known camera."""
    if len(result) == 1:
        return np.zeros((1, 3))
    places = result.cam_transl().double()
    if not bool(torch.isfinite(places).all()):
        places = to_cam_transl(result.pred_cam.double())
    if not bool(torch.isfinite(places).all()):
        raise ValueError("make_rig: the cameras must be finite, got NaN; leave those rows out")
    found: np.ndarray = places.numpy()
    return found


@torch.no_grad()
def _lowest(result: FitResult, betas: np.ndarray, lift: np.ndarray) -> float:
    """Lowest y of the upright mesh over all frames, when each is lifted by its metres."""
    body, lowest = result.body(), np.inf
    own = body.v_template
    for row in range(len(result)):
        part = result.params.select(torch.tensor([row]))
        vertices = body(
            betas=torch.from_numpy(betas)[None].to(own),
            body_pose=part.body_pose.to(own),
            global_orient=part.global_orient.to(own),
            pose2rot=False,
        ).vertices
        assert vertices is not None
        lowest = min(lowest, float(lift[row]) - float(vertices[..., 1].max()))
    return lowest


def _correctives(
    arrays: BodyArrays, rotmat: Float[np.ndarray, "F 24 3 3"]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Weights [F, K] and targets [K, V, 3] of the pose correctives, and the largest error, metres.

    With features f and directions P, D = f P and D D^T = (f L)(f L)^T where L L^T = P P^T: the left
    singular vectors U of the small f L are those of D, and the targets U^T D = (U^T f) P.
    """
    frames, count = len(rotmat), arrays.num_vertices
    features = (rotmat[:, 1:] - np.eye(3)).reshape(frames, -1)
    directions = arrays.posedirs.reshape(3 * count, -1).T
    if frames == 1:
        left = np.ones((1, 1))
    else:
        values, vectors = np.linalg.eigh(directions @ directions.T)
        root = vectors * np.sqrt(values.clip(0))
        left = np.linalg.svd(features @ root, full_matrices=False)[0]
    kept, error = 0, np.inf
    while error > _NEAR and kept < min(MOST_CORRECTIVES, left.shape[1]):
        kept = max(1, 2 * kept)
        basis = left[:, :kept]
        rest = features - basis @ (basis.T @ features)
        error = _largest(rest, directions)
    basis = left[:, : min(kept, left.shape[1])]
    # The largest weight of a target is 1: editors show weights as sliders.
    size = np.abs(basis).max(0).clip(1e-12)
    targets = ((basis * size).T @ features) @ directions
    return basis / size, targets.reshape(len(targets), count, 3), error


def _largest(features: np.ndarray, directions: np.ndarray) -> float:
    """Length of the longest offset, a part of the frames at a time."""
    longest = 0.0
    for begin in range(0, len(features), 64):
        offsets = (features[begin : begin + 64] @ directions).reshape(-1, 3)
        longest = max(longest, float(np.sqrt((offsets**2).sum(1).max())))
    return longest


def _positive(weight: Float[np.ndarray, "V 4"]) -> Float[np.ndarray, "V 4"]:
    """Weights as the formats want them: not negative, sums of 1."""
    clipped = weight.clip(0)
    share: np.ndarray = clipped / clipped.sum(1, keepdims=True)
    return share
