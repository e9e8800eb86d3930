"""Priors on pose and shape: how unlikely a body is, one value per person.

``body_pose`` is axis-angle [B,69]: the 23 joints below the root, radians. Each prior comes as a
loss, which autograd can follow, and in closed form, which is what a fitting loop of its own wants:
a ``PriorTerm`` and the Gauss-Newton curvature, 2 J^T J of the residuals whose squares it sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from eft_fast import ops

NUM_POSE: Final = 69
#: Main bending axis of left elbow, right elbow, left knee, right knee, among the 69 numbers.
BENDING: Final = (52, 55, 9, 12)
#: The sign with which each of them must not turn: exp(sign * angle) is large when overstretched.
BENDING_SIGN: Final = (1.0, -1.0, -1.0, -1.0)
#: Rows of a matrix product whose bits do not depend on how many people follow.
_BLOCK: Final = 32


@dataclass(frozen=True)
class PriorWeights:
    """What each prior counts; the closed forms skip what counts 0.

    Attributes:
        pose: Of the mixture.
        angle: Of overstretched elbows and knees.
        limits: Of the joint limits.
        shape: Of the squared betas.
        anchor: Of the squared distance of body pose and betas to the start.
    """

    pose: float = 0.0
    angle: float = 0.0
    limits: float = 0.0
    shape: float = 0.0
    anchor: float = 0.0

    def as_tuple(self) -> tuple[float, float, float, float, float]:
        """In the order of ``PriorGradients.parts``."""
        return self.pose, self.angle, self.limits, self.shape, self.anchor


class PriorGradients(NamedTuple):
    """Weighted sum of priors of each person, its five parts, and the gradients of the sum."""

    loss: Float[Tensor, " B"]
    parts: Float[Tensor, "B 5"]
    body_pose: Float[Tensor, "B 69"]
    betas: Float[Tensor, "B 10"]


class PriorTerm(NamedTuple):
    """Value of a prior for each person, and its gradient by the pose."""

    loss: Float[Tensor, " B"]
    gradient: Float[Tensor, "B 69"]


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Gaussians over the first D of the 69 numbers, prepared for the max-mixture prior.

    Attributes:
        means: Centre of each Gaussian, radians.
        precision: Inverse covariances.
        factors: Their Cholesky factors L side by side, precision = L L^T.
        shift: ``means`` through the factors.
        offset: What each Gaussian adds whatever the pose.
        weights: Share of each Gaussian; sums to 1.
    """

    means: Float[Tensor, "M D"]
    precision: Float[Tensor, "M D D"]
    factors: Float[Tensor, "D M*D"]
    shift: Float[Tensor, " M*D"]
    offset: Float[Tensor, " M"]
    weights: Float[Tensor, " M"]

    @property
    def dims(self) -> int:
        """How many of the 69 numbers the prior knows: 69, or 63 without the hands."""
        return self.means.shape[1]

    def mean_pose(self) -> Float[Tensor, " 69"]:
        """Mean of the mixture; zeros where the prior knows nothing."""
        mean = self.means.new_zeros(NUM_POSE)
        mean[: self.dims] = self.weights @ self.means
        return mean

    def to(self, like: Tensor) -> GaussianMixture:
        """The same on the device and of the type of ``like``."""
        return GaussianMixture(
            *(part.to(like) for part in (self.means, self.precision, self.factors)),
            *(part.to(like) for part in (self.shift, self.offset, self.weights)),
        )


@dataclass(frozen=True, eq=False)
class JointLimits:
    """Range of each of the 69 numbers, radians, and how softly it ends."""

    lower: Float[Tensor, " 69"]
    upper: Float[Tensor, " 69"]
    softness: float = 0.05

    def to(self, like: Tensor) -> JointLimits:
        """The same on the device and of the type of ``like``."""
        return JointLimits(self.lower.to(like), self.upper.to(like), self.softness)


def make_mixture(
    means: npt.ArrayLike, covars: npt.ArrayLike, weights: npt.ArrayLike
) -> GaussianMixture:
    """Prepare a mixture in float64, as SMPLify defines its prior.

    The determinants are divided by the smallest one, which only shifts the loss.

    Args:
        means: [M, D] with D = 69, or 63 without the hands.
        covars: [M, D, D].
        weights: [M]; scaled to sum to 1.

    Raises:
        ValueError: If the shapes do not agree or a covariance is not positive definite.
    """
    mu, sigma = np.asarray(means, np.float64), np.asarray(covars, np.float64)
    share = np.asarray(weights, np.float64).reshape(-1)
    if mu.ndim != 2 or mu.shape[1] not in (63, NUM_POSE):
        raise ValueError(f"make_mixture: means must be [M, 63] or [M, 69], got {list(mu.shape)}")
    count, dims = mu.shape
    if sigma.shape != (count, dims, dims) or share.shape != (count,):
        raise ValueError(
            f"make_mixture: covars must be {[count, dims, dims]} and weights [{count}], got "
            f"{list(sigma.shape)} and {list(share.shape)}"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all() and (share > 0).all()):
        raise ValueError("make_mixture: expected finite numbers and positive weights, got others")
    share = share / share.sum()
    try:
        half_log_det = np.log(np.linalg.cholesky(sigma).diagonal(axis1=1, axis2=2)).sum(1)
        precision = np.linalg.inv(sigma)
        precision = (precision + precision.transpose(0, 2, 1)) / 2
        factors = np.linalg.cholesky(precision)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"make_mixture: covars must be positive definite, got others ({error})"
        ) from error
    norm = dims / 2 * math.log(2 * math.pi) + half_log_det - half_log_det.min()
    wide = factors.transpose(1, 0, 2).reshape(dims, count * dims)
    shift = np.einsum("md,mde->me", mu, factors).reshape(-1)
    parts = (mu, precision, wide, shift, norm - np.log(share), share)
    return GaussianMixture(*(torch.from_numpy(np.array(part, order="C")) for part in parts))


def mixture_loss(prior: GaussianMixture, body_pose: Float[Tensor, "B 69"]) -> Float[Tensor, " B"]:
    """Negative logarithm of the most likely Gaussian: min_j 0.5 d_j^T S_j^-1 d_j - log c_j."""
    _check_pose("mixture_loss", body_pose)
    whitened = _whiten(prior, body_pose)
    smallest: Tensor = (0.5 * whitened.square().sum(-1) + prior.offset).amin(1)
    return smallest


def mixture_term(prior: GaussianMixture, body_pose: Float[Tensor, "B 69"]) -> PriorTerm:
    """``mixture_loss`` with its gradient."""
    whitened = _whiten(prior, body_pose)
    loss, winner = (0.5 * whitened.square().sum(-1) + prior.offset).min(1)
    number = torch.arange(len(prior.means), device=winner.device)
    chosen = whitened * (winner[:, None] == number)[..., None]
    gradient = torch.zeros_like(body_pose)
    gradient[:, : prior.dims] = _multiply(chosen.flatten(1), prior.factors.T)
    return PriorTerm(loss, gradient)


def mixture_curvature(
    prior: GaussianMixture, body_pose: Float[Tensor, "B 69"]
) -> Float[Tensor, "B 69 69"]:
    """Inverse covariance of the most likely Gaussian; zero where the prior knows nothing."""
    curvature = body_pose.new_zeros(len(body_pose), NUM_POSE, NUM_POSE)
    winner = mixture_winner(prior, body_pose)
    curvature[:, : prior.dims, : prior.dims] = prior.precision[winner]
    return curvature


def mixture_winner(prior: GaussianMixture, body_pose: Float[Tensor, "B 69"]) -> Int[Tensor, " B"]:
    """Number of the most likely Gaussian of each person."""
    whitened = _whiten(prior, body_pose)
    return (0.5 * whitened.square().sum(-1) + prior.offset).argmin(1)


def angle_loss(body_pose: Float[Tensor, "B 69"]) -> Float[Tensor, " B"]:
    """Overstretched elbows and knees: sum of exp(sign * angle)^2 over the four."""
    _check_pose("angle_loss", body_pose)
    sign = torch.tensor(BENDING_SIGN, dtype=body_pose.dtype, device=body_pose.device)
    return torch.exp(2 * sign * body_pose[:, BENDING]).sum(1)


def angle_term(body_pose: Float[Tensor, "B 69"]) -> PriorTerm:
    """``angle_loss`` with its gradient."""
    sign = torch.tensor(BENDING_SIGN, dtype=body_pose.dtype, device=body_pose.device)
    squared = torch.exp(2 * sign * body_pose[:, BENDING])
    gradient = torch.zeros_like(body_pose)
    gradient[:, BENDING] = 2 * sign * squared
    return PriorTerm(squared.sum(1), gradient)


def angle_curvature(body_pose: Float[Tensor, "B 69"]) -> Float[Tensor, "B 69"]:
    """Diagonal of the curvature of ``angle_loss``; the rest is zero.

    In float64: exponentials of torch round differently where a vector register is not full, so that
    float32 would not be batch-invariant.
    """
    sign = torch.tensor(BENDING_SIGN, dtype=torch.float64, device=body_pose.device)
    curvature = torch.zeros_like(body_pose)
    slope = 2 * torch.exp(2 * sign * body_pose[:, BENDING].double())
    curvature[:, BENDING] = slope.to(body_pose)
    return curvature


def limits_loss(limits: JointLimits, body_pose: Float[Tensor, "B 69"]) -> Float[Tensor, " B"]:
    """How far angles leave their ranges: sum of softplus(excess / softness)^2, both ends."""
    _check_pose("limits_loss", body_pose)
    above = softplus((body_pose - limits.upper) / limits.softness)
    below = softplus((limits.lower - body_pose) / limits.softness)
    return (above.square() + below.square()).sum(1)


def limits_term(limits: JointLimits, body_pose: Float[Tensor, "B 69"]) -> PriorTerm:
    """``limits_loss`` with its gradient."""
    excess = (body_pose - limits.upper) / limits.softness
    lack = (limits.lower - body_pose) / limits.softness
    above, below = softplus(excess), softplus(lack)
    gradient = 2 / limits.softness * (above * excess.sigmoid() - below * lack.sigmoid())
    return PriorTerm((above.square() + below.square()).sum(1), gradient)


def limits_curvature(
    limits: JointLimits, body_pose: Float[Tensor, "B 69"]
) -> Float[Tensor, "B 69"]:
    """Diagonal of the curvature of ``limits_loss``; the rest is zero. In float64, as above."""
    pose, lower, upper = (part.double() for part in (body_pose, limits.lower, limits.upper))
    rise = ((pose - upper) / limits.softness).sigmoid()
    fall = ((lower - pose) / limits.softness).sigmoid()
    return (2 / limits.softness**2 * (rise.square() + fall.square())).to(body_pose)


def limits_exceeded(limits: JointLimits, body_pose: Float[Tensor, "B 69"]) -> Float[Tensor, " B"]:
    """Share of the 69 numbers that lie outside their range."""
    _check_pose("limits_exceeded", body_pose)
    outside = (body_pose > limits.upper) | (body_pose < limits.lower)
    return outside.to(body_pose).mean(1)


def shape_loss(betas: Float[Tensor, "B 10"]) -> Float[Tensor, " B"]:
    """Sum of squared shape coefficients, which are in standard deviations."""
    return betas.square().sum(1)


def anchor_loss(value: Float[Tensor, "B D"], start: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
    """Squared distance to where the fit started."""
    return (value - start).square().sum(1)


def prior_gradients(
    mixture: GaussianMixture,
    limits: JointLimits,
    body_pose: Float[Tensor, "B 69"],
    betas: Float[Tensor, "B 10"],
    weights: PriorWeights,
    *,
    anchor: tuple[Float[Tensor, "B 69"], Float[Tensor, "B 10"]] | None = None,
    backend: str = "auto",
) -> PriorGradients:
    """All priors at once, with gradients and without autograd: what a fitting loop wants.

    Args:
        mixture: Gaussians over the pose.
        limits: Ranges of its numbers.
        body_pose: Axis-angle, radians.
        betas: Shape.
        weights: What each prior counts.
        anchor: Pose and betas of the start; None: zeros.
        backend: ``native``: one call, on the CPU only; ``torch``: the closed forms of this module;
            ``auto``: native where it runs.

    Raises:
        ValueError: If the shapes do not agree, or the backend cannot run.
    """
    _check_pose("prior_gradients", body_pose)
    if betas.shape != (len(body_pose), 10):
        raise ValueError(
            f"prior_gradients: betas must be [{len(body_pose)}, 10], got {list(betas.shape)}"
        )
    if ops.use_native_priors("prior_gradients", backend, betas):
        return PriorGradients(
            *ops.body_priors(
                body_pose.detach(),
                betas.detach(),
                (mixture.means, mixture.factors, mixture.offset),
                (limits.lower, limits.upper, limits.softness),
                weights.as_tuple(),
                anchor,
            )
        )
    return _sum_terms(mixture, limits, body_pose.detach(), betas.detach(), weights, anchor)


def _sum_terms(
    mixture: GaussianMixture,
    limits: JointLimits,
    body_pose: Tensor,
    betas: Tensor,
    weights: PriorWeights,
    anchor: tuple[Tensor, Tensor] | None,
) -> PriorGradients:
    parts = body_pose.new_zeros(len(body_pose), 5)
    g_pose, g_betas = torch.zeros_like(body_pose), torch.zeros_like(betas)
    terms: list[tuple[int, float, PriorTerm]] = []
    if weights.pose:
        terms.append((0, weights.pose, mixture_term(mixture, body_pose)))
    if weights.angle:
        terms.append((1, weights.angle, angle_term(body_pose)))
    if weights.limits:
        terms.append((2, weights.limits, limits_term(limits, body_pose)))
    for place, weight, value in terms:
        parts[:, place] = value.loss
        g_pose += weight * value.gradient
    if weights.shape:
        parts[:, 3] = shape_loss(betas)
        g_betas += 2 * weights.shape * betas
    if weights.anchor:
        pose_start, betas_start = anchor or (torch.zeros_like(body_pose), torch.zeros_like(betas))
        parts[:, 4] = anchor_loss(body_pose, pose_start) + anchor_loss(betas, betas_start)
        g_pose += 2 * weights.anchor * (body_pose - pose_start)
        g_betas += 2 * weights.anchor * (betas - betas_start)
    loss = (parts * parts.new_tensor(weights.as_tuple())).sum(1)
    return PriorGradients(loss, parts, g_pose, g_betas)


def _check_pose(who: str, body_pose: Tensor) -> None:
    if body_pose.ndim != 2 or body_pose.shape[1] != NUM_POSE:
        raise ValueError(f"{who}: body_pose must be [B, 69], got {list(body_pose.shape)}")


def _whiten(prior: GaussianMixture, body_pose: Tensor) -> Float[Tensor, "B M D"]:
    """L_j^T (pose - mean_j) of every Gaussian, in one product."""
    product = _multiply(body_pose[:, : prior.dims], prior.factors) - prior.shift
    rows: Tensor = product.unflatten(1, prior.means.shape)
    return rows


def _multiply(rows: Tensor, matrix: Tensor) -> Tensor:
    """``rows @ matrix`` in whole blocks of rows.

    The products of ragged edges and of single rows take other paths with other rounding; padded, a
    row is bitwise identical among any number of rows.
    """
    missing = -len(rows) % _BLOCK
    if missing:
        rows = torch.nn.functional.pad(rows, (0, 0, 0, missing))
    product: Tensor = rows @ matrix
    return product[: len(product) - missing]
