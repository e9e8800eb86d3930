"""What each mode tunes: which part of the network runs once, and which weights are private.

A mode is a place where the network is cut and a list of parameters behind the cut. Modes that tune
something other than the network's own weights add a small layer that holds it, so that every way of
fitting (one by one, in slots) sees nothing but layers and their parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn

from eft_fast.eft.config import DEFAULT_CONFIG, EFT_MODES, EftConfig
from eft_fast.errors import unknown_name
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.pipeline.predict import ask_confidence, predict_with_confidence

Module = TypeVar("Module", bound=nn.Module)

#: Modes that are a stage of the network: what lies before it runs once per person.
_STAGES: Final = ("layer3", "layer4", "head", "feature")
#: Seed of the random factors of ``lora``: everybody starts from the same ones, in every run.
_LORA_SEED: Final = 0


class FeatureShift(nn.Module):
    """Adds a vector to the features; the only thing that mode ``feature`` tunes."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros_like(like))

    def forward(self, x: Tensor) -> Tensor:
        """Shift each row."""
        return x + self.shift


class LoraLayer(nn.Module):
    """A frozen layer and a trained addition of low rank: ``y = W0 x + U (D x)``, U = 0 at first."""

    def __init__(self, layer: nn.Module, down: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.layer, self.down, self.up = layer, down, up

    def forward(self, x: Tensor) -> Tensor:
        """Apply the sum of both."""
        out: Tensor = self.layer(x) + self.up(self.down(x))
        return out


class RoundedLayer(nn.Module):
    """A layer whose product rounds its operands to bfloat16; what leaves it is float32 again.

    Only products profit from the short type. Everything between the layers keeps its type: a
    landmark of 200 pixels in bfloat16 would be known to a pixel.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            out: Tensor = self.layer(x)
        return out.to(x.dtype)


class FitNetwork(nn.Module):
    """The part of a regressor that a mode moves; its fixed part is ``prepare``.

    Args:
        regressor: The network, or a copy with added layers.
        stage: Where it is cut; None: nowhere, all of it moves.
        shift: The layer of mode ``feature``, which stands at the cut.
    """

    def __init__(
        self, regressor: Regressor, stage: str | None = None, shift: FeatureShift | None = None
    ) -> None:
        super().__init__()
        self.regressor, self.stage, self.shift = regressor, stage, shift

    @torch.no_grad()
    def prepare(self, img: Tensor) -> Any:
        """What ``forward`` starts from: the crops, or what the fixed part makes of them."""
        return img if self.stage is None else self.regressor.run_to(self.stage, img)

    def forward(self, inputs: Any, *, raw_camera: bool = False) -> RegressorOutput:
        """Run the part that moves."""
        raw = {"raw_camera": True} if raw_camera else {}
        if self.stage is None:
            output: RegressorOutput = self.regressor(inputs, **raw)
            return output
        if self.shift is not None:
            inputs = self.shift(inputs)
        return self.regressor.run_from(self.stage, inputs, **raw)

    def first(
        self, inputs: Any, *, raw_camera: bool = False
    ) -> tuple[RegressorOutput, dict[str, Tensor]]:
        """Run ``forward``, and ask how sure the answer is: that of the weights before any update.

        Returns:
            The answer, and ``CONFIDENCE`` [B, 24] without gradient if the regressor says it.
        """
        regressor = self.regressor
        if not regressor.has_confidence:
            return self(inputs, raw_camera=raw_camera), {}
        if self.stage is None:
            return predict_with_confidence(regressor, inputs, raw_camera=raw_camera)
        raw = {"raw_camera": True} if raw_camera else {}
        if self.shift is not None:
            inputs = self.shift(inputs)
        features = regressor.features_from(self.stage, inputs)
        return regressor.head_forward(features, **raw), ask_confidence(regressor, features)


def make_network(
    regressor: Regressor, mode: str, config: EftConfig = DEFAULT_CONFIG
) -> tuple[FitNetwork, list[nn.Parameter]]:
    """Prepare a regressor for a mode. It is not changed, and its weights are shared.

    Args:
        regressor: The network.
        mode: One of ``EFT_MODES``.
        config: Rank of ``lora``, and the precision.

    Returns:
        The part that moves, and the parameters that each person has for themselves. Batch
        normalisation is never among them.

    Raises:
        ValueError: If the mode is unknown, or the regressor has no such part.
    """
    check_mode(regressor, mode)
    parameters: Iterable[nn.Parameter]
    if mode == "lora":
        adapted, parameters = _add_factors(regressor, config.lora_rank)
        network = FitNetwork(adapted)
    elif mode == "feature":
        network, parameters = _make_feature_network(regressor)
    elif mode in _STAGES:
        network, parameters = FitNetwork(regressor, mode), regressor.parameters_from(mode)
    else:
        parameters = [*regressor.trunk_parameters(), *regressor.head_parameters()]
        network = FitNetwork(regressor)
    tuned = _without_batch_norm(regressor, parameters)
    return _round_layers(network, tuned) if config.precision == "bf16" else (network, tuned)


def check_mode(regressor: Regressor, mode: str) -> None:
    """Raise ValueError if there is no such mode, or not for this regressor."""
    if mode not in EFT_MODES:
        raise ValueError(unknown_name("fit_batch", "mode", mode, EFT_MODES))
    if mode in _STAGES and mode not in regressor.stages:
        possible = [m for m in EFT_MODES if m not in _STAGES or m in regressor.stages]
        raise ValueError(
            f"fit_batch: mode {mode!r} needs a regressor that can be cut at {mode!r}, got "
            f"{regressor.id}; use one of {', '.join(possible)}"
        )


def tuned_parameters(
    regressor: Regressor, mode: str, config: EftConfig = DEFAULT_CONFIG
) -> list[nn.Parameter]:
    """The parameters of ``make_network`` alone."""
    return make_network(regressor, mode, config)[1]


def share(
    module: Module, private: Sequence[nn.Parameter] = ()
) -> tuple[Module, dict[int, nn.Parameter]]:
    """Copy a module's structure in evaluation mode, but not the memory of its tensors.

    The copy's parameters are aliases without gradient, so that backward passes leave the ``grad``
    of the original alone. Those of ``private`` get memory of their own and take part in backward.

    Returns:
        The copy, and its parameters by the id of the original ones.
    """
    parameters = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    parameters |= {id(p): nn.Parameter(p.detach().clone()) for p in private}
    tensors: dict[int, Any] = {id(buffer): buffer for buffer in module.buffers()}
    return copy.deepcopy(module, tensors | parameters).eval(), parameters


def leaves(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Every module inside with its parent and its name there, so that it can be replaced."""
    for name, child in module.named_children():
        yield module, name, child
        yield from leaves(child)


def _without_batch_norm(
    regressor: Regressor, parameters: Iterable[nn.Parameter]
) -> list[nn.Parameter]:
    frozen = {
        id(parameter)
        for module in regressor.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for parameter in module.parameters()
    }
    return [parameter for parameter in parameters if id(parameter) not in frozen]


def _make_feature_network(regressor: Regressor) -> tuple[FitNetwork, list[nn.Parameter]]:
    like = next(regressor.parameters())
    size = regressor.input_size
    with torch.no_grad():
        features = regressor.run_to("feature", like.new_zeros(1, 3, size, size))
    shift = FeatureShift(features[0])
    return FitNetwork(regressor, "feature", shift), [shift.shift]


def _add_factors(regressor: Regressor, rank: int) -> tuple[Regressor, list[nn.Parameter]]:
    """A copy in which ungrouped convolutions and linear layers have factors beside them.

    Depthwise convolutions stay as they are: their rows have k * k weights, and no rank is low.

    Raises:
        ValueError: If there is no such layer.
    """
    movable = {id(p) for p in (*regressor.trunk_parameters(), *regressor.head_parameters())}
    adapted, parameters = share(regressor)
    movable = {id(parameters[each]) for each in movable}
    generator = torch.Generator().manual_seed(_LORA_SEED)
    factors: list[nn.Parameter] = []
    for parent, name, layer in _wrappable(adapted):
        if getattr(layer, "groups", 1) > 1 or id(layer.weight) not in movable:
            continue
        down, up = _make_factors(layer, rank, generator)
        setattr(parent, name, LoraLayer(layer, down, up))
        factors += [*down.parameters(), *up.parameters()]
    if not factors:
        raise ValueError(
            f"fit_batch: mode 'lora' needs Linear or Conv2d layers that move the answer, "
            f"{regressor.id} has none"
        )
    return adapted, factors


def _wrappable(
    network: nn.Module,
) -> list[tuple[nn.Module, str, nn.Linear | nn.Conv2d]]:
    """Linear layers and convolutions that are only ever called.

    Composite modules of torch, such as attention, read the weights of their layers past the call;
    what is inside of them stays as it is.
    """
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return [
        (parent, name, layer)
        for parent, name, layer in leaves(network)
        if isinstance(layer, nn.Linear | nn.Conv2d)
        and type(layer) in (nn.Linear, nn.Conv2d)
        and (isinstance(parent, containers) or not type(parent).__module__.startswith("torch.nn."))
    ]


def _make_factors(
    layer: nn.Linear | nn.Conv2d, rank: int, generator: torch.Generator
) -> tuple[nn.Linear | nn.Conv2d, nn.Linear | nn.Conv2d]:
    """``D`` with rows of random unit-variance answers, and ``U`` = 0."""
    rows, fan_in = layer.weight.shape[0], layer.weight[0].numel()
    rank = min(rank, rows, fan_in)
    down: nn.Linear | nn.Conv2d
    up: nn.Linear | nn.Conv2d
    # On "meta" no weights are drawn, so the user's random state does not move.
    if isinstance(layer, nn.Linear):
        down = nn.Linear(layer.in_features, rank, bias=False, device="meta")
        up = nn.Linear(rank, rows, bias=False, device="meta")
    else:
        shape: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding}
        shape |= {"dilation": layer.dilation, "padding_mode": layer.padding_mode}
        size: Any = layer.kernel_size
        down = nn.Conv2d(layer.in_channels, rank, size, **shape, bias=False, device="meta")
        up = nn.Conv2d(rank, rows, 1, bias=False, device="meta")
    noise = torch.randn(down.weight.shape, generator=generator) / fan_in**0.5
    down.weight = nn.Parameter(noise.to(layer.weight))
    up.weight = nn.Parameter(layer.weight.new_zeros(up.weight.shape))
    return down, up


def _round_layers(
    network: FitNetwork, tuned: list[nn.Parameter]
) -> tuple[FitNetwork, list[nn.Parameter]]:
    """The same network with ``RoundedLayer`` around every convolution and linear layer."""
    rounded, parameters = share(network)
    for parent, name, layer in _wrappable(rounded):
        setattr(parent, name, RoundedLayer(layer))
    return rounded, [parameters[id(p)] for p in tuned]
