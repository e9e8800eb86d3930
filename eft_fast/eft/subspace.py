"""Mode ``subspace``: move the weights along a few directions, each with its own step length.

A direction is that of Adam's first step for what is still wrong; the image of a direction in the
regressor's answer is one forward-mode derivative. Both are taken at the start weights, so that the
network runs forward once, back once per direction and forward-mode once per direction, where the
full fit does all of it twenty times. The step lengths then minimise the loss of the linearised
answer, which needs the body but not the network, and one last pass gives the answer of the moved
weights. It is another method than EFT: see the table in docs/fitting.md for how far its fits lie
from EFT's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from eft_fast.eft.batched.functional_weights import SlotwiseNetwork
from eft_fast.eft.batched.layers import StackedRegressor, can_stack
from eft_fast.eft.config import EftConfig
from eft_fast.eft.modes import make_network
from eft_fast.geometry.rotations import rot6d_to_matrix
from eft_fast.losses.keypoints import EftLossWeights
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.pipeline.fitter import (
    CropJob,
    PersonFit,
    is_labelled,
    loss_weights,
    output_loss,
    readable_errors,
    stack_intrinsics,
)
from eft_fast.smplify.objective import Evaluation
from eft_fast.smplify.solvers import minimise

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

_NUM_POSE: Final = 144
#: Steps at most of the search for the step lengths; each runs the body a few times.
_SEARCH_STEPS: Final = 30
#: Length of its first step, in units of the answer (entries of rotation matrices, of the camera).
_FIRST_LENGTH: Final = 0.1


def pack(output: RegressorOutput) -> Tensor:
    """An answer as rows of 157 numbers: two columns of each rotation, betas, camera."""
    pose = output.pred_rotmat[..., :2].reshape(len(output.pred_betas), -1)
    return torch.cat([pose, output.pred_betas, output.pred_cam], 1)


def unpack(x: Tensor) -> RegressorOutput:
    """The answer of ``pack``, with rotations made orthogonal again."""
    rotmat = rot6d_to_matrix(x[:, :_NUM_POSE].reshape(len(x), 24, 6))
    return RegressorOutput(rotmat, x[:, _NUM_POSE : _NUM_POSE + 10], x[:, _NUM_POSE + 10 :])


@dataclass(frozen=True)
class _Loss:
    """Loss and 2D term of packed answers."""

    body: Smpl
    weights: EftLossWeights
    keypoints_2d: Tensor
    intrinsics: Tensor | None

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.of(unpack(x))

    def of(self, output: RegressorOutput) -> tuple[Tensor, Tensor]:
        """The same of answers as they are."""
        return output_loss(self.body, output, self.keypoints_2d, self.weights, self.intrinsics)


class _StepLengths:
    """The loss of ``x0 + sum_k c_k a_k`` as a function of c, for ``solvers.minimise``."""

    def __init__(self, loss: _Loss, x0: Tensor, images: Tensor) -> None:
        self._loss, self._x0, self._images = loss, x0, images
        self.free = torch.ones_like(images[0, :, 0])

    def answer(self, c: Tensor) -> Tensor:
        """Linearised answers."""
        return self._x0 + (c[..., None] * self._images).sum(1)

    def evaluate(self, x: Tensor) -> Evaluation:
        """Value and gradient by the step lengths."""
        with torch.enable_grad():
            answer = self.answer(x).requires_grad_()
            total, keypoint = self._loss(answer)
            (gradient,) = torch.autograd.grad(total.sum(), answer)
        along = (gradient[:, None] * self._images).sum(-1)
        return Evaluation(total.detach(), along, keypoint.detach())

    def curvature(self, x: Tensor) -> Tensor:
        """Not needed by the solver in use."""
        raise NotImplementedError


class SubspaceFitter:
    """Fits people along ``EftConfig.directions`` directions, ``slots`` people at a time.

    Args:
        regressor: Start of every fit; it is not changed.
        body: Body model on the same device.
        config: Number of directions, loss weights and stopping threshold.
        slots: People at a time.
        batched: As of ``SlotFitter``.

    Raises:
        ValueError: As of ``SlotFitter``; in ``fit``, if an operator of the network has no
            forward-mode derivative.
    """

    def __init__(
        self,
        regressor: Regressor,
        body: Smpl,
        *,
        config: EftConfig,
        slots: int = 1,
        batched: bool | None = None,
    ) -> None:
        if slots < 1:
            raise ValueError(f"fit_batch: slots must be at least 1, got {slots}")
        network, tuned = make_network(regressor, "subspace", config)
        if batched is None:
            on_gpu = next(regressor.parameters()).device.type == "cuda"
            batched = on_gpu and slots > 1 and can_stack(network, tuned)
        self._engine: _Stacked | _OneByOne
        if batched:
            self._engine = _Stacked(StackedRegressor(network, tuned, slots))
        else:
            self._engine = _OneByOne(SlotwiseNetwork(network, tuned, 0))
        self._body, self._config = body, config
        # Without batched calls company gains nothing, and alone nobody rounds by it.
        self._slots = slots if batched else 1
        self._weights = loss_weights(config)

    def fit(self, jobs: Iterable[CropJob]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's number and fit."""
        queue = iter(jobs)
        while group := list(islice(queue, self._slots)):
            yield from zip([job.index for job in group], self._fit_group(group), strict=True)

    def fit_person(self, job: CropJob) -> PersonFit:
        """Fit one person."""
        return self._fit_group([job])[0]

    def _fit_group(self, group: list[CropJob]) -> list[PersonFit]:
        config, count = self._config, len(group)
        # Rows do not mix, but a smaller batch would round differently: the last group is filled up.
        full = _fill(group, self._slots)
        keypoints_2d = torch.stack([job.keypoints_2d for job in full])
        loss = _Loss(self._body, self._weights, keypoints_2d, stack_intrinsics(full))
        raw_camera = config.strict_reference
        init = self._engine.start([job.img[None] for job in full], raw_camera)
        init_loss, init_term = loss.of(init)
        init_error = readable_errors(init, init_loss, init_term)
        labelled = [is_labelled(job.keypoints_2d) for job in full]
        moving = [
            has and error == error and error >= config.threshold
            for has, error in zip(labelled, init_error, strict=True)
        ]
        final, steps = init, [0] * len(full)
        if any(moving):
            final, steps = self._move(loss, torch.tensor(moving, device=init_loss.device))
        final_loss, term = loss.of(final)
        errors = readable_errors(final, final_loss, term)
        first, last = _rows(init, init_loss), _rows(final, final_loss)
        fits = []
        for i in range(count):
            error = errors[i] if moving[i] else init_error[i]
            kept = last[i] if moving[i] and error == error else first[i]
            reason = "converged" if error < config.threshold else "max_steps"
            if error != error:
                reason, steps[i] = "nan", 0
            reason = reason if labelled[i] else "no_keypoints"
            done = steps[i] if moving[i] else 0
            fits.append(PersonFit(kept[0], first[i][0], kept[1], first[i][1], done, reason))
        return fits

    def _move(self, loss: _Loss, moving: Tensor) -> tuple[RegressorOutput, list[int]]:
        """Answers at the moved weights, and how many directions each person used."""
        x0 = self._engine.x0
        directions: list[list[Tensor]] = []
        images = x0.new_zeros(len(x0), 0, x0.shape[1])
        c = x0.new_zeros(len(x0), 0)
        used = torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
        x = x0
        for _ in range(self._config.directions):
            with torch.enable_grad():
                here = x.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(loss(here)[0].sum(), here)
            # Zero for those who are done: their direction and its image are zero, too.
            gradient = torch.where(moving[:, None], gradient, 0.0)
            used += moving
            directions.append(self._engine.directions(gradient, self._config.adam_eps))
            image = self._engine.image(directions[-1])
            # Images of unit size make the step lengths comparable; c is scaled back at the end.
            size = image.norm(dim=1, keepdim=True)
            image = image / torch.where(size > 0, size, 1.0)
            directions[-1] = [_beside(1 / torch.where(size > 0, size, 1.0), each) * each
                              for each in directions[-1]]  # fmt: skip
            images = torch.cat([images, image[:, None]], 1)
            search = _StepLengths(loss, x0, images)
            found = minimise(
                search,
                torch.cat([c, torch.zeros_like(size)], 1),
                solver="lbfgs",
                steps=_SEARCH_STEPS,
                lr=_FIRST_LENGTH,
            )
            c = torch.where(moving[:, None], found.x, torch.cat([c, torch.zeros_like(size)], 1))
            x = search.answer(c)
            with torch.no_grad():
                moving = moving & ~(loss(x)[1] < self._config.threshold)
            if not bool(moving.any()):
                break
        return self._engine.moved(directions, c), used.tolist()


class _OneByOne:
    """The network one person at a time."""

    def __init__(self, network: SlotwiseNetwork) -> None:
        self._network = network

    def start(self, crops: list[Tensor], raw_camera: bool) -> RegressorOutput:
        """Answers at the start weights; their graph is kept."""
        self._inputs, self._raw_camera = crops, raw_camera
        self._leaves = [self._network.leaves(0, at_start=True) for _ in crops]
        with torch.enable_grad():
            outputs = [self._run(*each) for each in zip(self._leaves, crops, strict=True)]
            self._x = [pack(output) for output in outputs]
        self.x0 = torch.cat([x.detach() for x in self._x])
        return RegressorOutput(*(torch.cat(p).detach() for p in zip(*outputs, strict=True)))

    def _run(self, weights: list[Tensor], inputs: Tensor) -> RegressorOutput:
        return self._network.run(weights, inputs, raw_camera=self._raw_camera)

    def directions(self, gradient: Tensor, eps: float) -> list[Tensor]:
        """Adam's first step, of unit rate, for a gradient at the answer."""
        rows = [
            [_first_step(grad, like, eps) for grad, like in zip(grads, leaves, strict=True)]
            for leaves, grads in (
                (leaves, _pull(x, leaves, gradient[i : i + 1]))
                for i, (x, leaves) in enumerate(zip(self._x, self._leaves, strict=True))
            )
        ]
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    @torch.no_grad()
    def image(self, direction: list[Tensor]) -> Tensor:
        """How the answer moves along a direction, to first order."""
        images = []
        for i, inputs in enumerate(self._inputs):
            with _forward_mode():
                duals = [
                    forward_ad.make_dual(start, each[i])
                    for start, each in zip(self._network.start(), direction, strict=True)
                ]
                images.append(forward_ad.unpack_dual(pack(self._run(duals, inputs))).tangent)
        return torch.cat([torch.zeros_like(self.x0[:1]) if t is None else t for t in images])

    @torch.no_grad()
    def moved(self, directions: list[list[Tensor]], c: Tensor) -> RegressorOutput:
        """Answers at ``W0 + sum_k c_k u_k``."""
        outputs = []
        for i, inputs in enumerate(self._inputs):
            weights = [start.clone() for start in self._network.start()]
            for k, direction in enumerate(directions):
                for weight, each in zip(weights, direction, strict=True):
                    weight.addcmul_(each[i], c[i, k])
            outputs.append(self._run(weights, inputs))
        return RegressorOutput(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))


class _Stacked:
    """The network for all people in the same calls."""

    def __init__(self, stack: StackedRegressor) -> None:
        self._stack = stack

    def start(self, crops: list[Tensor], raw_camera: bool) -> RegressorOutput:
        """Answers at the start weights; their graph is kept."""
        self._img, self._raw_camera = torch.cat(crops), raw_camera
        for storage, _ in self._stack.deltas():
            storage.zero_()
        self._stack.narrow(len(crops))
        self._stack.set_at_start(True)
        with torch.enable_grad():
            output = self._run()
            self._x = pack(output)
        self._leaves = [leaf for _, leaf in self._stack.deltas()]
        self.x0 = self._x.detach()
        return RegressorOutput(*(value.detach() for value in output))

    def _run(self) -> RegressorOutput:
        output: RegressorOutput = self._stack.network(self._img, raw_camera=self._raw_camera)
        return output

    def directions(self, gradient: Tensor, eps: float) -> list[Tensor]:
        """Adam's first step, of unit rate, for a gradient at the answer."""
        grads = _pull(self._x, self._leaves, gradient)
        return [_first_step(g, leaf, eps) for g, leaf in zip(grads, self._leaves, strict=True)]

    @torch.no_grad()
    def image(self, direction: list[Tensor]) -> Tensor:
        """How the answer moves along a direction, to first order."""
        self._stack.set_at_start(False)
        with _forward_mode():
            tangents = iter(direction)
            for layer in self._stack.layers:
                layer.delta = {
                    name: forward_ad.make_dual(torch.zeros_like(delta), next(tangents))
                    for name, delta in layer.delta.items()
                }
            tangent = forward_ad.unpack_dual(pack(self._run())).tangent
        self._stack.narrow(len(self._img))
        return torch.zeros_like(self.x0) if tangent is None else tangent

    @torch.no_grad()
    def moved(self, directions: list[list[Tensor]], c: Tensor) -> RegressorOutput:
        """Answers at ``W0 + sum_k c_k u_k``."""
        for place, (storage, _) in enumerate(self._stack.deltas()):
            for k, direction in enumerate(directions):
                each = direction[place]
                storage[: len(each)].addcmul_(each, _beside(c[:, k : k + 1], each))
        self._stack.narrow(len(self._img))
        self._stack.set_at_start(False)
        return self._run()


@contextmanager
def _forward_mode() -> Iterator[None]:
    """Forward-mode derivatives, or one sentence about the operator that has none."""
    try:
        with forward_ad.dual_level():
            yield
    except NotImplementedError as error:
        found = re.search(r"aten::\w+", str(error))
        raise ValueError(
            "fit_batch: mode 'subspace' needs forward-mode derivatives of the whole network, and "
            f"{found[0] if found else 'one of its operators'} has none; use another mode"
        ) from error


def _pull(x: Tensor, leaves: list[Tensor], gradient: Tensor) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(x, leaves, gradient, retain_graph=True, allow_unused=True)


def _first_step(grad: Tensor | None, like: Tensor, eps: float) -> Tensor:
    """``-g / (|g| + eps)``: the first step of Adam, and a sign where the gradient is not tiny."""
    return torch.zeros_like(like) if grad is None else -grad / (grad.abs() + eps)


def _beside(values: Tensor, like: Tensor) -> Tensor:
    """One number per person against tensors of any shape."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _rows(output: RegressorOutput, loss: Tensor) -> list[tuple[RegressorOutput, Tensor]]:
    return [
        (RegressorOutput(*(value[i : i + 1] for value in output)), loss[i : i + 1].detach())
        for i in range(len(loss))
    ]


def _fill(group: list[CropJob], slots: int) -> list[CropJob]:
    return group + [group[-1]] * (slots - len(group))
