"""Stage three: train the confidence of each joint; the predictions of the network stay."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from eft_fast import conventions
from eft_fast.body import Smpl
from eft_fast.models.movenet_regressor import MoveNetRegressor
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.training.cache import Source, run_source
from eft_fast.training.targets import Targets, body_points

#: Weight decay of the layer, of the mean loss.
_DECAY = 1e-4
_STEPS = 200


@torch.no_grad()
def observe(
    network: OpenRegressor,
    body: Smpl,
    source: Source,
    targets: Targets,
    *,
    count: int | None = None,
) -> tuple[Float[Tensor, "N W"], Float[Tensor, "N 24"]]:
    """Return what the layer reads, and 1 where a joint is as near as it should be, else 0.

    ``count`` takes the first so many people only.
    """
    features = run_source(network, source, count=count)
    output = network.head_forward(features)
    joints = body_points(body, output.pred_rotmat, output.pred_betas).joints
    near = (joints - targets.joints[: len(joints)]).norm(dim=-1) < conventions.CONFIDENT_WITHIN_M
    return network.head.hidden(network.head_input(features)[0]), near.to(joints.dtype)


def train_confidence(
    network: OpenRegressor | MoveNetRegressor,
    trained: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
) -> None:
    """Fit the layer of ``joint_confidence``, a logistic regression, in place.

    On people it was trained on a network errs less than on others, and would be overconfident, so
    the slope and the offset of all logits together are fitted again on people it was not trained
    on.

    Args:
        network: The finished network.
        trained: ``observe`` of people of the training split.
        validation: The same of the validation split.

    Raises:
        ValueError: If the network has no such layer.
    """
    layer = network.head.certainty
    if layer is None:
        raise ValueError("train_confidence: the network has no layer for confidence; make it anew")
    hidden, near = trained
    mean, std = hidden.mean(0), hidden.std(0).clamp_min(1e-3)
    weight = torch.zeros_like(layer.weight).requires_grad_()
    bias = torch.zeros_like(layer.bias).requires_grad_()
    scaled = (hidden - mean) / std

    def loss() -> Tensor:
        fit = binary_cross_entropy_with_logits(linear(scaled, weight, bias), near)
        return fit + _DECAY * weight.square().sum()

    _minimise(loss, [weight, bias])
    hidden, near = validation
    with torch.no_grad():
        logits = linear((hidden - mean) / std, weight, bias)
    slope, offset = (torch.full((), value, requires_grad=True) for value in (1.0, 0.0))
    _minimise(
        lambda: binary_cross_entropy_with_logits(slope * logits + offset, near), [slope, offset]
    )
    with torch.no_grad():
        layer.weight.copy_(slope * weight / std)
        layer.bias.copy_(slope * (bias - weight @ (mean / std)) + offset)


def _minimise(loss: Callable[[], Tensor], parameters: list[Tensor]) -> None:
    optimizer = torch.optim.LBFGS(parameters, max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
