"""The MAP solver in plain torch: oracle of the native solver, any floating type, any device.

A person's unknowns are a rotation of each joint, betas and a weak camera. One step d [85] moves
them by R_j exp(d_j), betas + d, s exp(d) and t + frame d: the same coordinates as those of the
prior, x = (log(R0_j^T R_j), betas - betas0, log(s/s0), (t - t0)/frame), but about the present
answer. All derivatives are closed forms by d at d = 0.

Sums that differ from person to person run over broadcast products or over one person's matrices at
a time: nobody's rounding depends on how many others there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eft_fast.conventions import MIN_DEPTH
from eft_fast.map_rules import (
    DAMPING_RANGE,
    FAILED,
    FAIR,
    FAIR_GAIN,
    GOOD,
    GOOD_GAIN,
    MAX_SCALE_STEP,
    NUM_STATE,
    POOR,
    POSE,
    SCALE,
)
from eft_fast.map_rules import SMALL_ANGLE as _SMALL
from eft_fast.ops import reference
from eft_fast.ops.plans import PointsPlan

#: Unknowns: 72 of rotations, 10 betas, log s, t_x, t_y.
UNKNOWNS: Final = NUM_STATE
_POSE: Final = POSE.stop
_SCALE: Final = SCALE
#: Where the pose blendshapes of joint 1 begin among the 218 coefficients of a body.
_FEATURES: Final = 11
#: Size of the systems that are solved. LAPACK's rounding depends on where in a line of the cache a
#: matrix begins, which must be the same for everybody.
_PADDED: Final = 96


class MapState(NamedTuple):
    """Rotations of the joints, shape, and weak camera (s, tx, ty), u = s X + t in [-1, 1]."""

    rotmat: Float[Tensor, "B 24 3 3"]
    betas: Float[Tensor, "B 10"]
    cam: Float[Tensor, "B 3"]


class MapSolution(NamedTuple):
    """What ``map_solve`` found for each person.

    Attributes:
        rotmat: Rotations of the joints.
        betas: Shape.
        cam: Weak camera.
        energy: E at the answer.
        data: Its part from keypoints and 3D points.
        steps: Solves that were made.
        converged: Whether the last model promised less than the tolerance.
        finite: False: the energy of the start is not finite, and the answer is that start.
        hessian: J^T W J + A^T P A at the answer, inverse covariance of a step; None unless kept.
    """

    rotmat: Float[Tensor, "B 24 3 3"]
    betas: Float[Tensor, "B 10"]
    cam: Float[Tensor, "B 3"]
    energy: Float[Tensor, " B"]
    data: Float[Tensor, " B"]
    steps: Int[Tensor, " B"]
    converged: Bool[Tensor, " B"]
    finite: Bool[Tensor, " B"]
    hessian: Float[Tensor, "B 85 85"] | None


class MapEvaluation(NamedTuple):
    """Energy of each person at one state, its data part, and the Gauss-Newton model of E/2.

    ``gradient`` = (dE/dd)/2 and ``hessian`` = J^T W J + A^T P A by a step d: E/2 is a negative log
    likelihood where weights and precision are inverse variances, so the inverse of ``hessian`` is
    the Laplace covariance.
    """

    energy: Float[Tensor, " B"]
    data: Float[Tensor, " B"]
    gradient: Float[Tensor, "B 85"]
    hessian: Float[Tensor, "B 85 85"]


@dataclass(frozen=True, eq=False)
class MapProblem:
    """Everything that stays as it is while a batch is solved; see ``ops.map_solve``."""

    plan: PointsPlan
    centre: MapState
    keypoints: Float[Tensor, "B K 3"]
    precision: Float[Tensor, "85 85"]
    frame: Float[Tensor, " B"]
    pinhole: Float[Tensor, "B 4"] | None
    points3d: Float[Tensor, "B K 4"] | None
    free: Bool[Tensor, " 85"] | None

    def take(self, people: Int[Tensor, " N"]) -> MapProblem:
        """The same of some people."""
        return MapProblem(
            self.plan,
            MapState(*(part[people] for part in self.centre)),
            self.keypoints[people],
            self.precision,
            self.frame[people],
            None if self.pinhole is None else self.pinhole[people],
            None if self.points3d is None else self.points3d[people],
            self.free,
        )


def rotation_log(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Rotation vectors of matrices, angle at most pi, by the largest entry of the quaternion."""
    m = matrix
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    axial = torch.stack(
        [
            m[..., 2, 1] - m[..., 1, 2],
            m[..., 0, 2] - m[..., 2, 0],
            m[..., 1, 0] - m[..., 0, 1],
        ],
        -1,
    )
    identity = torch.eye(3, dtype=m.dtype, device=m.device)
    inner = m + m.transpose(-1, -2) + (1 - trace)[..., None, None] * identity
    # Row i is 4 q_i (w, x, y, z).
    first = torch.cat([(1 + trace)[..., None], axial], -1)
    table = torch.cat([first[..., None, :], torch.cat([axial[..., None], inner], -1)], -2)
    best = table.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = table.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    quaternion = row / row.norm(dim=-1, keepdim=True)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    w, vector = quaternion[..., :1], quaternion[..., 1:]
    squared = (vector * vector).sum(-1, keepdim=True)
    is_small = squared < _SMALL
    norm = torch.where(is_small, 1.0, squared).sqrt()
    safe_w = torch.where(is_small, w, 1.0)
    u = torch.where(is_small, squared, 0.0) / (safe_w * safe_w)
    series = 2 / safe_w * (1 - u * (1 / 3 - u * (1 / 5 - u / 7)))
    vector = torch.where(is_small, series, 2 * torch.atan2(norm, w) / norm) * vector
    return vector


def right_jacobian_inverse(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """J = d log(exp(vector) exp(d)) / dd at 0: I + K/2 + c K^2, c = (1 - (t/2) cot(t/2)) / t^2."""
    squared = (vector * vector).sum(-1)[..., None, None]
    is_small = squared < _SMALL
    angle = torch.where(is_small, 1.0, squared).sqrt()
    closed = (1 - angle / 2 * (angle / 2).cos() / (angle / 2).sin()) / (angle * angle)
    series = 1 / 12 + squared / 720 * (1 + squared / 42)
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    K = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    identity = torch.eye(3, dtype=vector.dtype, device=vector.device)
    # K^2 = r r^T - t^2 I.
    square = vector[..., :, None] * vector[..., None, :] - squared * identity
    jacobian: Tensor = identity + K / 2 + torch.where(is_small, series, closed) * square
    return jacobian


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Products of 3x3 matrices as broadcast sums: the same bits in any batch."""
    return (left[..., :, :, None] * right[..., None, :, :]).sum(-2)


def _rotate(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix * vector[..., None, :]).sum(-1)


class Body(NamedTuple):
    """A posed body and its points, with the terms that the derivatives use again."""

    world: Float[Tensor, "B 24 3 3"]
    joints: Float[Tensor, "B 24 3"]
    rest: Float[Tensor, "B 24 3"]
    rotated: Float[Tensor, "B N 3"]
    moved: Float[Tensor, "B N 3"]
    sources: Float[Tensor, "B S 3"]


def pose_body(plan: PointsPlan, state: MapState) -> Body:
    """Kinematic chain, terms and sources of the plan; as ``reference.smpl_points``."""
    betas, rotations = state.betas, state.rotmat
    directions = plan.skeleton[..., 1:]
    rest = plan.skeleton[..., 0] + (directions * betas[:, None, None]).sum(-1)
    world, places = [rotations[:, 0]], [rest[:, 0]]
    for j, p in enumerate(plan.parents.tolist()[1:], start=1):
        places.append(places[p] + _rotate(world[p], rest[:, j] - rest[:, p]))
        world.append(_product(world[p], rotations[:, j]))
    G, g = torch.stack(world, 1), torch.stack(places, 1)
    shift = g - _rotate(G, rest)
    row, joint, source = plan.term_index.long().unbind(1)
    alpha, omega = plan.term_weight.unbind(1)
    coefficients = reference._coefficients(betas, rotations)
    rows = (coefficients[:, :, None, None] * plan.basis).sum(1).transpose(1, 2)
    rotated = alpha[:, None] * _rotate(G[:, joint], rows[:, row])
    moved = rotated + omega[:, None] * shift[:, joint]
    sources = moved.new_zeros(len(betas), len(plan.transl_weight), 3)
    sources = sources.index_add(1, source, moved)
    chain_joint, chain_source = plan.joint_index.long().unbind(1)
    chain = plan.joint_weight[:, None] * g[:, chain_joint]
    return Body(G, g, rest, rotated, moved, sources.index_add(1, chain_source, chain))


def _turn_chain(plan: PointsPlan, body: Body) -> Float[Tensor, "B S 3 72"]:
    """Sources by the rotations, blendshapes held: joint m turns all below it about itself.

    A source's part below m is V + (its weights W) times places; turned by the world vector G_m d it
    moves by (G_m d) x (V - W g_m).
    """
    people, count = len(body.joints), len(plan.transl_weight)
    _, joint, source = plan.term_index.long().unbind(1)
    chain_joint, chain_source = plan.joint_index.long().unbind(1)
    omega = plan.term_weight[:, 1:].expand(people, -1, -1)
    weight = plan.joint_weight[:, None]
    below = body.joints.new_zeros(people, 24 * count, 4)
    below = below.index_add(1, joint * count + source, torch.cat([body.moved, omega], -1))
    placed = torch.cat([weight * body.joints[:, chain_joint], weight.expand(people, -1, 1)], -1)
    below = below.index_add(1, chain_joint * count + chain_source, placed)
    parts = list(below.unflatten(1, (24, count)).unbind(1))
    parents = plan.parents.tolist()
    for j in range(23, 0, -1):
        parts[parents[j]] = parts[parents[j]] + parts[j]
    subtree = torch.stack(parts, 2)
    arm = subtree[..., :3] - subtree[..., 3:] * body.joints[:, None]
    axes = body.world.transpose(2, 3)[:, None]  # [B,1,24,axis,3]
    axes, arms = torch.broadcast_tensors(axes, arm[..., None, :])
    turned: Tensor = torch.linalg.cross(axes, arms)
    return turned.flatten(2, 3).transpose(2, 3)


def _turn_blendshapes(
    plan: PointsPlan, body: Body, rotmat: Float[Tensor, "B 24 3 3"]
) -> Float[Tensor, "B S 3 72"]:
    """Sources by the rotations through vec(R_m [d]x), chain held."""
    row, joint, source = plan.term_index.long().unbind(1)
    rows = plan.basis.shape[2]
    # Features (matrix row, column) of joint m by feature: [23, 3, 3, 3 xyz, R].
    basis = plan.basis[_FEATURES:].unflatten(0, (23, 3, 3))
    slopes = []
    for axis in range(3):
        # R [e]x: the next column takes the one after it, and that one minus the next.
        following, last = (axis + 1) % 3, (axis + 2) % 3
        total = rotmat.new_zeros(len(rotmat), 23, 3, rows)
        for i in range(3):
            total = total + rotmat[:, 1:, i, last, None, None] * basis[:, i, following]
            total = total - rotmat[:, 1:, i, following, None, None] * basis[:, i, last]
        slopes.append(total)
    slope = torch.stack(slopes, 2).permute(0, 4, 3, 1, 2).flatten(3)[:, row]  # [B,N,3,69]
    G = body.world[:, joint] * plan.term_weight[:, 0, None, None]
    turned = (G[..., None] * slope[:, :, None]).sum(3)
    out = turned.new_zeros(len(rotmat), len(plan.transl_weight), 3, _POSE)
    out[..., 3:] = out[..., 3:].index_add(1, source, turned)
    return out


def _shape_slopes(plan: PointsPlan, body: Body) -> Float[Tensor, "B S 3 10"]:
    """Sources by betas: rest joints move the chain, shape directions the rows."""
    row, joint, source = plan.term_index.long().unbind(1)
    directions = plan.skeleton[..., 1:]
    first = body.world[:, 0]
    places = [directions[0].expand(len(first), -1, -1)]
    for j, p in enumerate(plan.parents.tolist()[1:], start=1):
        bone = directions[j] - directions[p]
        places.append(places[p] + _product(body.world[:, p], bone))
    place = torch.stack(places, 1)
    shift = place - _product(body.world, directions)
    slope = plan.basis[1:_FEATURES].permute(2, 1, 0)[row]
    turned = _product(body.world[:, joint] * plan.term_weight[:, 0, None, None], slope)
    turned = turned + plan.term_weight[:, 1, None, None] * shift[:, joint]
    out = turned.new_zeros(len(first), len(plan.transl_weight), 3, 10).index_add(1, source, turned)
    chain_joint, chain_source = plan.joint_index.long().unbind(1)
    return out.index_add(1, chain_source, plan.joint_weight[:, None, None] * place[:, chain_joint])


def points_jacobian(plan: PointsPlan, state: MapState, body: Body) -> Float[Tensor, "B K 3 82"]:
    """Points by a step of rotations and betas."""
    turns = _turn_chain(plan, body) + _turn_blendshapes(plan, body, state.rotmat)
    return torch.cat([turns, _shape_slopes(plan, body)], -1)[:, plan.output_index.long()]


class Image(NamedTuple):
    """Projected points, with their slopes by the point and by (log s, t_x, t_y) of a step."""

    image: Float[Tensor, "B K 2"]
    by_point: Float[Tensor, "B K 2 3"]
    by_camera: Float[Tensor, "B K 2 3"]


def project(problem: MapProblem, cam: Float[Tensor, "B 3"], points: Tensor) -> Image:
    """Weak: u = s X + t. Pinhole: the body stands where the weak camera agrees.

    With (f_x, f_y, c_x, c_y), z = f_x / s and the translation is ((t - c) z / f, z), which is
    ``cameras.weak_to_pinhole`` but for its 1e-9 beside s: a scale keeps its sign here. Depth is
    held at ``MIN_DEPTH`` or more; a held point has no slope by its depth.
    """
    scale, shift = cam[:, None, :1], cam[:, None, 1:]
    frame = problem.frame[:, None, None]
    zero = torch.zeros_like(points[..., 0])
    if problem.pinhole is None:
        s, f = scale[..., 0] + zero, frame[..., 0] + zero
        slope = scale * points[..., :2]
        by_point = torch.stack([s, zero, zero, zero, s, zero], -1)
        by_camera = torch.stack([slope[..., 0], f, zero, slope[..., 1], zero, f], -1)
        return Image(slope + shift, by_point.unflatten(-1, (2, 3)), by_camera.unflatten(-1, (2, 3)))
    focal, middle = problem.pinhole[:, None, :2], problem.pinhole[:, None, 2:]
    per_shift = focal[..., :1] / focal / scale  # metres per unit of t in the plane of the root
    transl = (shift - middle) * per_shift
    depth = focal[..., :1] / scale
    at = points[..., 2:] + depth
    is_held = at < MIN_DEPTH
    inverse = 1 / torch.where(is_held, MIN_DEPTH, at)
    flat = (points[..., :2] + transl) * inverse
    direct = focal * inverse
    deep = torch.where(is_held, 0.0, -direct * flat)
    by_point = torch.stack(
        [direct[..., 0], zero, deep[..., 0], zero, direct[..., 1], deep[..., 1]], -1
    ).unflatten(-1, (2, 3))
    # A step of log s moves the translation by minus itself.
    by_scale = -(direct * transl + deep * depth)
    moved = direct * per_shift * frame
    by_camera = torch.stack(
        [by_scale[..., 0], moved[..., 0], zero, by_scale[..., 1], zero, moved[..., 1]], -1
    )
    return Image(focal * flat + middle, by_point, by_camera.unflatten(-1, (2, 3)))


def coordinates(problem: MapProblem, state: MapState) -> Float[Tensor, "B 85"]:
    """Place x of a state about the centre of the prior."""
    centre = problem.centre
    turn = rotation_log(_product(centre.rotmat.transpose(2, 3), state.rotmat))
    scale = (state.cam[:, :1] / centre.cam[:, :1]).log()
    shift = (state.cam[:, 1:] - centre.cam[:, 1:]) / problem.frame[:, None]
    return torch.cat([turn.flatten(1), state.betas - centre.betas, scale, shift], 1)


def _errors(given: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Errors [B,K,n] and weights [B,K]; a weight that is not above 0 leaves its point out."""
    counts = given[..., -1] > 0
    error = torch.where(counts[..., None], found - given[..., :-1], 0.0)
    return error, torch.where(counts, given[..., -1], 0.0)


def _prior(problem: MapProblem, x: Tensor) -> tuple[Float[Tensor, "B 85"], Float[Tensor, " B"]]:
    pull = (problem.precision * x[:, None]).sum(-1)
    return pull, (x * pull).sum(-1)


def energies(
    problem: MapProblem, state: MapState
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Energy and its data part."""
    body = pose_body(problem.plan, state)
    points = body.sources[:, problem.plan.output_index.long()]
    error, weight = _errors(problem.keypoints, project(problem, state.cam, points).image)
    data = (weight * (error * error).sum(-1)).sum(-1)
    if problem.points3d is not None:
        error, weight = _errors(problem.points3d, points)
        data = data + (weight * (error * error).sum(-1)).sum(-1)
    return data + _prior(problem, coordinates(problem, state))[1], data


def _normal(slope: Tensor, error: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """J^T W J and J^T W e; slope [B,K,n,85], error [B,K,n], weight [B,K]."""
    weighted = (slope * weight[..., None, None]).flatten(1, 2)
    return torch.bmm(weighted.transpose(1, 2), slope.flatten(1, 2)), (
        weighted * error.flatten(1)[..., None]
    ).sum(1)


def _prior_model(problem: MapProblem, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A^T P A, A^T P x and x^T P x, A = diag(J_r^-1(omega_j), I): columns, then rows, by blocks."""
    turns = right_jacobian_inverse(x[:, :_POSE].unflatten(1, (24, 3)))
    pull, value = _prior(problem, x)
    people = len(x)
    right = problem.precision.expand(people, -1, -1)
    blocks = right[:, :, :_POSE].unflatten(2, (24, 3)).transpose(1, 2)  # [B,24,85,3]
    right = torch.cat([_product(blocks, turns).transpose(1, 2).flatten(2), right[:, :, _POSE:]], 2)
    rows = right[:, :_POSE].unflatten(1, (24, 3))  # [B,24,3,85]
    top = _product(turns.transpose(2, 3), rows).flatten(1, 2)
    slope = _rotate(turns.transpose(2, 3), pull[:, :_POSE].unflatten(1, (24, 3)))
    gradient = torch.cat([slope.flatten(1), pull[:, _POSE:]], 1)
    return torch.cat([top, right[:, _POSE:]], 1), gradient, value


def evaluate(problem: MapProblem, state: MapState) -> MapEvaluation:
    """Energy, half its gradient and its Gauss-Newton model by a step; see ``MapEvaluation``."""
    body = pose_body(problem.plan, state)
    points = body.sources[:, problem.plan.output_index.long()]
    by_body = points_jacobian(problem.plan, state, body)
    seen = project(problem, state.cam, points)
    slope = torch.cat([(seen.by_point[..., None] * by_body[:, :, None]).sum(3), seen.by_camera], -1)
    error, weight = _errors(problem.keypoints, seen.image)
    hessian, gradient = _normal(slope, error, weight)
    data = (weight * (error * error).sum(-1)).sum(-1)
    if problem.points3d is not None:
        error, weight = _errors(problem.points3d, points)
        data = data + (weight * (error * error).sum(-1)).sum(-1)
        slope = torch.cat([by_body, torch.zeros_like(by_body[..., :3])], -1)
        more, pull = _normal(slope, error, weight)
        hessian, gradient = hessian + more, gradient + pull
    more, pull, value = _prior_model(problem, coordinates(problem, state))
    hessian, gradient = hessian + more, gradient + pull
    if problem.free is not None:
        both = problem.free[:, None] & problem.free
        fixed = torch.diag(~problem.free).to(hessian)
        hessian = torch.where(both, hessian, 0.0) + fixed
        gradient = torch.where(problem.free, gradient, 0.0)
    return MapEvaluation(data + value, data, gradient, hessian)


def move(state: MapState, step: Float[Tensor, "B 85"], frame: Float[Tensor, " B"]) -> MapState:
    """The state after a step: R exp(d), betas + d, s exp(d) and t + frame d."""
    turn = reference._from_axis_angle(step[:, :_POSE].unflatten(1, (24, 3)))
    scale = (
        state.cam[:, :1] * step[:, _SCALE : _SCALE + 1].clamp(-MAX_SCALE_STEP, MAX_SCALE_STEP).exp()
    )
    shift = state.cam[:, 1:] + step[:, _SCALE + 1 :] * frame[:, None]
    return MapState(
        _product(state.rotmat, turn),
        state.betas + step[:, _POSE:_SCALE],
        torch.cat([scale, shift], 1),
    )


def _solve_damped(model: MapEvaluation, damping: Tensor) -> tuple[Tensor, Tensor]:
    """The step of (H + damping diag H) d = -g, and what the model promises E to fall by.

    NaN where the damped matrix is not positive definite.
    """
    diagonal = model.hessian.diagonal(dim1=1, dim2=2)
    padded = torch.eye(_PADDED, dtype=diagonal.dtype, device=diagonal.device)
    padded = padded.repeat(len(diagonal), 1, 1)
    padded[:, :UNKNOWNS, :UNKNOWNS] = model.hessian
    padded[:, :UNKNOWNS, :UNKNOWNS] += torch.diag_embed(damping[:, None] * diagonal)
    right = model.gradient.new_zeros(len(diagonal), _PADDED, 1)
    right[:, :UNKNOWNS, 0] = -model.gradient
    factor, failure = torch.linalg.cholesky_ex(padded)
    step = torch.cholesky_solve(right, factor)[:, :UNKNOWNS, 0]
    step = torch.where(failure[:, None] == 0, step, torch.nan)
    along = (model.gradient * step).sum(1)
    return step, damping * (diagonal * step * step).sum(1) - along


def _pick(yes: Bool[Tensor, " B"], some: Tensor, other: Tensor) -> Tensor:
    return torch.where(yes.reshape(-1, *(1,) * (some.ndim - 1)), some, other)


def _next_damping(damping: Tensor, is_better: Tensor, gain: Tensor) -> Tensor:
    # Numbers alone would make a float32 tensor.
    factor = torch.full_like(damping, POOR)
    factor = torch.where(gain > FAIR_GAIN, FAIR, factor)
    factor = torch.where(gain > GOOD_GAIN, GOOD, factor)
    return (damping * torch.where(is_better, factor, FAILED)).clamp(*DAMPING_RANGE)


@dataclass
class _Progress:
    """Where each of some people stands between two solves."""

    state: MapState
    model: MapEvaluation
    damping: Float[Tensor, " B"]
    steps: Int[Tensor, " B"]
    converged: Bool[Tensor, " B"]

    def advance(self, problem: MapProblem, tolerance: float) -> None:
        """One solve of everybody; a better energy is kept, a worse one raises the damping.

        The promise of a step falls with the damping alone, so (1 + damping) times the promise is
        what is compared with the tolerance.
        """
        step, promise = _solve_damped(self.model, self.damping)
        trial = move(self.state, step, problem.frame)
        energy, _ = energies(problem, trial)
        before = self.model.energy
        is_better = torch.isfinite(energy) & (energy < before)
        self.converged = (1 + self.damping) * promise <= tolerance * before
        self.damping = _next_damping(self.damping, is_better, (before - energy) / promise)
        self.steps = self.steps + 1
        self.state = MapState(
            *(_pick(is_better, a, b) for a, b in zip(trial, self.state, strict=True))
        )
        moved = evaluate(problem, self.state)
        self.model = MapEvaluation(
            *(_pick(is_better, a, b) for a, b in zip(moved, self.model, strict=True))
        )


def solve(
    problem: MapProblem,
    begin: MapState,
    steps: int,
    damping: float,
    tolerance: float,
    keep_hessian: bool,
) -> MapSolution:
    """Levenberg-Marquardt of every person on its own; see ``ops.map_solve``."""
    model = evaluate(problem, begin)
    people = len(model.energy)
    finite = torch.isfinite(model.energy)
    none = torch.zeros_like(finite)
    count = torch.zeros(people, dtype=torch.int32, device=finite.device)
    state = MapState(*(part.clone() for part in begin))
    answer = _Progress(state, model, torch.full_like(model.energy, damping), count, none)
    active = finite.nonzero()[:, 0]
    for _ in range(steps):
        if not len(active):
            break
        some = _Progress(
            MapState(*(part[active] for part in answer.state)),
            MapEvaluation(*(part[active] for part in answer.model)),
            answer.damping[active],
            answer.steps[active],
            answer.converged[active],
        )
        some.advance(problem.take(active), tolerance)
        for whole, part in zip(
            (*answer.state, *answer.model, answer.damping, answer.steps, answer.converged),
            (*some.state, *some.model, some.damping, some.steps, some.converged),
            strict=True,
        ):
            whole[active] = part
        active = active[~some.converged]
    model, hessian = answer.model, None
    if keep_hessian:
        hessian = _pick(finite, model.hessian, torch.full_like(model.hessian, torch.nan))
    return MapSolution(
        *answer.state, model.energy, model.data, answer.steps, answer.converged, finite, hessian
    )
