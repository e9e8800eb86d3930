"""The module that is exported: pixels in, parameters and body out."""

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from eft_fast.deploy.body_graph import BodyGraph, with_rig_graphs
from eft_fast.models.base import Regressor, RegressorOutput

PRECISIONS: Final = ("fp32", "fp16")
#: What the graph may return beside the parameters.
OUTPUTS: Final = ("params", "joints", "vertices")
#: Stage of a regressor at which the trunk ends: a vector that everything behind it reads.
TRUNK_END: Final = "feature"


class ExportGraph(nn.Module):
    """Pixels to parameters and what else was asked for.

    Args:
        regressor: The network; it is copied where the precision changes it.
        body: Body part of the graph, or None.
        precision: ``fp32``, or ``fp16``: trunk in half precision, head, rotations and body in
            single.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, regressor: Regressor, body: BodyGraph | None = None, precision: str = "fp32"
    ) -> None:
        super().__init__()
        regressor = with_rig_graphs(regressor)
        self.regressor = HalfTrunk(regressor) if precision == "fp16" else regressor
        self.body = body
        mean, std = torch.tensor(regressor.img_mean), torch.tensor(regressor.img_std)
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)

    def forward(
        self, image: UInt8[Tensor, "B S S 3"], given: Float[Tensor, "B N 3"] | None = None
    ) -> tuple[Tensor, ...]:
        """Rotations, shape and camera; joints and vertices, where asked for; the confidence.

        Args:
            image: RGB crops.
            given: What a network that reads keypoints is shown (``Regressor.reads_keypoints``).
                None: the picture alone.
        """
        # The cast comes first: TensorRT refuses to transpose bytes.
        pixels = image.to(torch.float32).permute(0, 3, 1, 2) / 255.0
        output, said = self._answer((pixels - self.mean) / self.std, given)
        # By name: a network may answer more than these three.
        rotmat, betas, cam = output.pred_rotmat, output.pred_betas, output.pred_cam
        more = () if self.body is None else self.body(betas, rotmat)
        return (rotmat, betas, cam, *more, *(() if said is None else (said,)))

    def _answer(self, img: Tensor, given: Tensor | None) -> tuple[RegressorOutput, Tensor | None]:
        if isinstance(self.regressor, HalfTrunk):
            return self.regressor.answer(img)
        # Only networks that read keypoints know the argument.
        told: dict[str, Any] = {} if given is None else {"given": given}
        return self.regressor.head_with_confidence(self.regressor.features(img), **told)


class HalfTrunk(nn.Module):
    """A regressor whose trunk runs in half precision and everything behind it in single.

    The trunk is whatever layers have no weight behind the stage ``feature``; no layer is named
    here, so a changed network is either converted as a whole or refused.

    Args:
        regressor: The network; it is copied.

    Raises:
        TypeError: If the network does not tell where its trunk ends, or its trunk and head share
            a layer.
    """

    def __init__(self, regressor: Regressor) -> None:
        super().__init__()
        if TRUNK_END not in regressor.stages:
            raise TypeError(
                f"export: fp16 needs a network that can be cut at the stage {TRUNK_END!r}, which "
                f"{type(regressor).__name__} cannot; use fp32"
            )
        self.network = copy.deepcopy(regressor).eval()
        fold_batch_norms(self.network)
        kept = {id(parameter) for parameter in self.network.parameters_from(TRUNK_END)}
        halved = 0
        for name, module in self.network.named_modules():
            own = [id(parameter) in kept for parameter in module.parameters(recurse=False)]
            if any(own) and not all(own):
                raise TypeError(
                    f"export: fp16 cannot split {name or 'the network'}, which trunk and head of "
                    f"{type(regressor).__name__} share; use fp32"
                )
            if own and not any(own):
                _halve(module, name)
                halved += 1
        if not halved or not kept:
            raise TypeError(
                f"export: fp16 finds no trunk or no head in {type(regressor).__name__}; use fp32"
            )

    def forward(self, img: Float[Tensor, "B 3 S S"]) -> RegressorOutput:
        """Regress each person of the batch; errors as of ``answer``."""
        return self.answer(img)[0]

    def answer(self, img: Float[Tensor, "B 3 S S"]) -> tuple[RegressorOutput, Tensor | None]:
        """The answers, and how sure they are, as ``Regressor.head_with_confidence`` says.

        Raises:
            TypeError: If the trunk does not end in half precision: some layer widened it again.
        """
        feature = self.network.run_to(TRUNK_END, img)
        if not isinstance(feature, Tensor) or feature.dtype != torch.float16:
            kind = getattr(feature, "dtype", type(feature).__name__)
            raise TypeError(f"export: fp16 expects a trunk that ends in float16, got {kind}")
        feature = feature.to(torch.float32)
        if not self.network.has_confidence:
            return self.network.run_from(TRUNK_END, feature), None
        features = self.network.features_from(TRUNK_END, feature)
        output, said = self.network.head_with_confidence(features)
        # The layer of the confidence moves no body, and counts as trunk.
        return output, None if said is None else said.to(torch.float32)


def fold_batch_norms(network: Regressor) -> None:
    """Multiply batch norms into the convolutions in front of them, in place.

    Done in single precision: variances of trained networks pass the 65504 of half precision. Who
    stands in front of whom is seen in a run of the trunk.
    """
    made_by: dict[int, nn.Conv2d] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    alive: list[Any] = []  # An id means nothing once its tensor is gone.

    def after_convolution(module: nn.Module, inputs: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        alive.append(output)
        made_by[id(output)] = module

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        if id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])], module))

    hooks = [
        module.register_forward_hook(after_convolution)
        if isinstance(module, nn.Conv2d)
        else module.register_forward_pre_hook(before_norm)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    ]
    size = network.input_size
    with torch.no_grad():
        network.run_to(TRUNK_END, torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    folded = {norm: fuse_conv_bn_eval(convolution, norm) for convolution, norm in pairs}
    for convolution, norm in pairs:
        convolution.weight, convolution.bias = folded[norm].weight, folded[norm].bias
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if child in folded:
                setattr(parent, name, nn.Identity())


def _halve(module: nn.Module, name: str) -> None:
    """Put the layer's own weights and buffers, and what it is given, into half precision."""
    for store in (module._parameters, module._buffers):
        for key, value in store.items():
            if value is None or not value.is_floating_point():
                continue
            half: Any = value.detach().to(torch.float16)
            if not torch.equal(half.isfinite(), value.isfinite()):
                raise TypeError(
                    f"export: fp16 cannot hold {name}.{key}, whose values reach "
                    f"{float(value.detach().abs().max()):.3g}; use fp32"
                )
            store[key] = nn.Parameter(half, False) if store is module._parameters else half
    module.register_forward_pre_hook(_to_half)


def _to_half(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Cast what comes in; inside the trunk it is half already and nothing is done."""
    return tuple(x.to(torch.float16) if isinstance(x, Tensor) else x for x in inputs)
