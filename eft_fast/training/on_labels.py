"""Training of a regressor on labelled photos: fits, annotations, or both, mixed by shares.

Batches depend on the seed and the number of the update only; a run that is killed goes on from its
last state and ends with the same weights as one that was not.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from eft_fast.body import Smpl
from eft_fast.conventions import BOX_UNIT
from eft_fast.losses.priors import GaussianMixture
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.smplify.prior import load_pose_prior
from eft_fast.training.config import check_numbers
from eft_fast.training.crops import PLAIN, AugmentConfig, CropReader
from eft_fast.training.label_loss import LabelLossConfig, label_loss
from eft_fast.training.labels import LabelledPeople, Labels, join_people, mirror_labels
from eft_fast.training.state import Run, append_log

#: People of the validation part that are looked at.
_VALIDATION_PEOPLE: Final = 256
#: Seed of what is drawn once per run and not per update.
_SPLIT_SEED: Final = 17
#: Crops that run through the network at once outside of training.
_CHUNK: Final = 16


@dataclass(frozen=True)
class LabelConfig:
    """Training on labelled photos.

    Attributes:
        seed: Of every batch.
        steps: Updates.
        batch: People per update.
        lr: Peak learning rate of AdamW; linear warm-up, then cosine.
        head_lr: The same of what stands behind the last stage of the network, ``head``; None: as
            ``lr``. A head that is new learns faster than a trunk that is not.
        warmup: Updates of the warm-up.
        weight_decay: Of AdamW.
        ema: Decay of the moving average of the weights, which is what is kept; 0: none.
        max_norm: Gradients longer than this are shortened.
        validate_every: Updates between two looks at the validation part. The weights that did best
            there are kept.
        validation: Share of the photos that nothing is learned from.
        stage: Train from this stage of the network on, and keep what lies before: its outputs are
            then computed once per person, and crops are mirrored only. None: train everything.
        workers: Processes that read photos; 0: the one that trains.
        augment: How crops are varied.
        loss: Weights of the terms.
    """

    seed: int = 0
    steps: int = 5000
    batch: int = 64
    lr: float = 5e-5
    head_lr: float | None = None
    warmup: int = 100
    weight_decay: float = 0.0
    ema: float = 0.99
    max_norm: float = 50.0
    validate_every: int = 500
    validation: float = 0.05
    stage: str | None = None
    workers: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LabelLossConfig = field(default_factory=LabelLossConfig)

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        check_numbers(self, "train", at_least={"workers": 0, "seed": 0, "warmup": 0})
        if not 0 < self.validation < 1:
            raise ValueError(
                f"train: validation must be a share between 0 and 1, got {self.validation:g}"
            )


@dataclass(frozen=True, eq=False)
class Mixture:
    """Sets of people and how often each is drawn from.

    Attributes:
        parts: The sets.
        shares: What each is drawn with; they need not sum to 1.
    """

    parts: tuple[LabelledPeople, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse shares that nothing can be drawn by."""
        if len(self.parts) != len(self.shares) or not self.parts:
            raise ValueError(
                f"train: one share per set expected, got {len(self.shares)} for {len(self.parts)}"
            )
        if not all(np.isfinite(share) and share >= 0 for share in self.shares) or not any(
            self.shares
        ):
            raise ValueError(
                f"train: shares must be positive numbers, got {list(self.shares)}; a set that is "
                "not wanted is left out"
            )

    def split(self, validation: float) -> tuple[Mixture, LabelledPeople]:
        """The part that is learned from, and the people that weights are chosen on.

        A photo belongs to one of the two by its name, so that no photo is in both, whatever sets
        it is in.

        Raises:
            ValueError: If one of the two would be empty.
        """
        learned, held = [], []
        for part in self.parts:
            outside = np.array([_is_held(photo, validation) for photo in part.photos], bool)
            learned.append(part.take(np.nonzero(~outside)[0].tolist()))
            held.append(part.take(np.nonzero(outside)[0].tolist()))
        kept = [
            (people, share)
            for people, share in zip(learned, self.shares, strict=True)
            if len(people)
        ]
        people = join_people(held)
        if not kept or not len(people):
            raise ValueError(
                f"train: photos for training and for validation expected, got "
                f"{sum(map(len, learned))} people of the one and {len(people)} of the other; give "
                "more photos, or another share of validation"
            )
        chosen = np.random.default_rng(_SPLIT_SEED).permutation(len(people))[:_VALIDATION_PEOPLE]
        mixture = Mixture(tuple(part for part, _ in kept), tuple(share for _, share in kept))
        return mixture, people.take(np.sort(chosen).tolist())

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Numbers of people among the parts, one after the other, as ``join_people`` puts them."""
        shares = torch.tensor(self.shares, dtype=torch.float64)
        which = torch.multinomial(shares, count, replacement=True, generator=generator)
        sizes = torch.tensor([len(part) for part in self.parts])
        first = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)[:-1]])
        place = torch.rand(count, generator=generator, dtype=torch.float64) * sizes[which]
        return first[which] + place.long().clamp_max(sizes[which] - 1)


def train_on_labels(
    network: Regressor,
    body: Smpl,
    data: Mixture,
    config: LabelConfig,
    *,
    state: Path | None = None,
    save_every: int = 200,
    on_save: Callable[[], None] | None = None,
    log: Callable[[int, dict[str, float]], None] | None = None,
    states: FrozenStates | None = None,
) -> list[float]:
    """Train a regressor; it ends with the weights that did best on the validation part.

    Args:
        network: Changed in place, on the device it is on. Batch normalisation stays as in use.
        body: The body of the labels and of the network, on the same device.
        data: Who to learn from.
        config: Steps, rates and odds.
        state: File to resume from and to save to, or None. A log lies beside it.
        save_every: Updates between two saves.
        on_save: Called after each save.
        log: Called with the number of the update and what is known of it, when weights are scored.
        states: Outputs of the part before ``config.stage`` that runs share whose networks are equal
            up to there; None: they are computed.

    Returns:
        Loss of each update of this call.

    Raises:
        ValueError: If the options do not go together, or a state file is of another run.
    """
    mixture, held = data.split(config.validation)
    prior = _prior(body, config, [*mixture.parts, held])
    people = join_people(mixture.parts)
    feed: PhotoFeed | StageFeed
    if config.stage is None:
        feed = PhotoFeed(network, people, held, mixture, config)
    else:
        _check_stage(network, config)
        known = states if states is not None else FrozenStates(network, config.stage)
        feed = StageFeed(known, people, held, mixture, config)
    run = Run(network, _groups(network, config), config, ema=config.ema)
    if state is not None:
        run.resume(state)
    device = next(network.parameters()).device

    @torch.no_grad()
    def validate(candidate: nn.Module) -> float:
        assert isinstance(candidate, Regressor)
        found = [
            label_loss(body, output, labels.to(device), config.loss, prior)
            for output, labels in feed.look(candidate)
        ]
        return float(torch.cat(found).mean())

    losses: list[float] = []
    _set_training(network)
    with tqdm(total=config.steps, initial=run.step, desc="train", unit="step") as bar:
        batches = feed.batches(run.step)
        while not run.finished:
            run.generator()  # seeds dropout
            inputs, labels = next(batches)
            output = feed.forward(network, inputs)
            loss = label_loss(body, output, labels.to(device), config.loss, prior).mean()
            losses.append(run.update(loss))
            bar.update()
            if run.step % 20 == 0:
                bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", best=f"{run.best_score:.3f}")
            score = run.validate_when_due(validate)
            if score is not None:
                facts = {"loss": float(np.mean(losses[-config.validate_every :])), "score": score}
                if state is not None:
                    append_log(state, step=run.step, **facts)
                if log is not None:
                    log(run.step, facts)
            run.save_when_due(state, save_every, on_save)
    run.finish()
    return losses


class _Batches(Dataset[tuple[Tensor, Labels]]):
    """Crops and labels of update number i; picklable, so that workers can make them."""

    def __init__(self, read: CropReader, mixture: Mixture, config: LabelConfig) -> None:
        self._read, self._mixture, self._config = read, mixture, config

    def __len__(self) -> int:
        return self._config.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Labels]:
        generator = _generator(self._config, step)
        return self._read(self._mixture.draw(self._config.batch, generator), generator)


class PhotoFeed:
    """Photos, read and varied anew for every update."""

    def __init__(
        self,
        network: Regressor,
        people: LabelledPeople,
        held: LabelledPeople,
        mixture: Mixture,
        config: LabelConfig,
    ) -> None:
        self._config, self._device = config, next(network.parameters()).device
        self._set = _Batches(CropReader(people, network, config.augment), mixture, config)
        self._held = CropReader(held, network, PLAIN)

    def batches(self, first: int) -> Iterator[tuple[Tensor, Labels]]:
        """Inputs and labels from one update on."""
        workers = self._config.workers
        loader: DataLoader[tuple[Tensor, Labels]] = DataLoader(
            self._set,
            batch_size=None,
            sampler=range(first, self._config.steps),
            num_workers=workers,
            # Fork would copy the locks of torch's threads; spawn starts clean.
            multiprocessing_context="spawn" if workers else None,
            prefetch_factor=2 if workers else None,
        )
        return iter(loader)

    def forward(self, network: Regressor, inputs: Tensor) -> RegressorOutput:
        """The network on the inputs of an update."""
        output: RegressorOutput = network(inputs.to(self._device))
        return output

    def look(self, network: Regressor) -> Iterator[tuple[RegressorOutput, Labels]]:
        """The network on the validation part."""
        for rows in torch.arange(len(self._held.people)).split(_CHUNK):
            img, labels = self._held(rows, torch.Generator().manual_seed(0))
            yield network(img.to(self._device)), labels


class FrozenStates:
    """What the first part of a network makes of crops, and of their mirror images.

    A crop runs once, however many sets of people it is in.

    Args:
        network: The network; what lies before the stage must not change.
        stage: The stage.
    """

    def __init__(self, network: Regressor, stage: str) -> None:
        network.check_stage(stage)
        self._network, self.stage, self.size = network, stage, network.input_size
        self._rows: dict[tuple[str, tuple[float, ...]], int] = {}
        self._parts: list[list[Tensor]] = []
        self._kind: type[Any] = Tensor

    @torch.no_grad()
    def rows(self, people: LabelledPeople) -> Tensor:
        """Where the states of people are, after those that were missing have been computed."""
        keys = [_crop_key(people, row) for row in range(len(people))]
        missing = [row for row, key in enumerate(keys) if key not in self._rows]
        read = CropReader(people, self._network, PLAIN)
        device = next(self._network.parameters()).device
        self._network.eval()
        for part in tqdm(torch.tensor(missing).split(_CHUNK), desc="frozen stages", unit="batch"):
            if not len(part):
                continue
            img, _ = read(part, torch.Generator().manual_seed(0))
            state = self._network.run_to(self.stage, torch.cat([img, img.flip(-1)]).to(device))
            self._kind = type(state)
            halves = [torch.stack(tensor.cpu().chunk(2), 1) for tensor in _tensors(state)]
            for row, *values in zip(part.tolist(), *halves, strict=True):
                self._rows[keys[row]] = len(self._parts)
                self._parts.append(values)
        return torch.tensor([self._rows[key] for key in keys], dtype=torch.int64)

    def take(self, rows: Tensor, mirrored: Tensor) -> Any:
        """States of people at these places, each mirrored or not."""
        sides = mirrored.long().tolist()
        chosen = [self._parts[row] for row in rows.tolist()]
        device = next(self._network.parameters()).device
        tensors = [
            torch.stack([part[index][side] for part, side in zip(chosen, sides, strict=True)])
            for index in range(len(chosen[0]))
        ]
        moved = [tensor.to(device) for tensor in tensors]
        return moved[0] if issubclass(self._kind, Tensor) else self._kind(*moved)


class StageFeed:
    """Outputs of the frozen part of the network, computed once."""

    def __init__(
        self,
        states: FrozenStates,
        people: LabelledPeople,
        held: LabelledPeople,
        mixture: Mixture,
        config: LabelConfig,
    ) -> None:
        self._states, self._mixture, self._config = states, mixture, config
        self._rows, self._labels = states.rows(people), _plain_labels(people)
        self._held_rows, self._held_labels = states.rows(held), _plain_labels(held)

    def batches(self, first: int) -> Iterator[tuple[Any, Labels]]:
        """Inputs and labels from one update on."""
        for step in range(first, self._config.steps):
            generator = _generator(self._config, step)
            rows = self._mixture.draw(self._config.batch, generator)
            mirrored = torch.rand(len(rows), generator=generator) < self._config.augment.mirror
            labels = Labels(*(part[rows] for part in self._labels))
            inputs = self._states.take(self._rows[rows], mirrored)
            yield inputs, mirror_labels(labels, mirrored, self._states.size)

    def forward(self, network: Regressor, inputs: Any) -> RegressorOutput:
        """The network on the inputs of an update."""
        return network.run_from(self._states.stage, inputs)

    def look(self, network: Regressor) -> Iterator[tuple[RegressorOutput, Labels]]:
        """The network on the validation part."""
        for rows in torch.arange(len(self._held_rows)).split(_CHUNK):
            still = torch.zeros(len(rows), dtype=torch.bool)
            state = self._states.take(self._held_rows[rows], still)
            labels = Labels(*(part[rows] for part in self._held_labels))
            yield network.run_from(self._states.stage, state), labels


def _plain_labels(people: LabelledPeople) -> Labels:
    """The labels of everybody in their own crop."""
    flat = people.keypoints_px.clone()
    half = (BOX_UNIT / 2) * people.scale[:, None, None]
    flat[..., :2] = (flat[..., :2] - people.center[:, None]) / half
    flat = torch.where(flat[..., 2:] > 0, flat, 0.0)
    return people.labels(torch.arange(len(people)), flat)


def _crop_key(people: LabelledPeople, row: int) -> tuple[str, tuple[float, ...]]:
    """What a crop depends on: the photo, and the square to a hundredth of a pixel."""
    photo = people.photos[row]
    name = str(photo) if isinstance(photo, str | Path) else str(id(photo))
    place = [*people.center[row].tolist(), BOX_UNIT * float(people.scale[row])]
    return name, tuple(round(number, 2) for number in place)


def _tensors(state: Any) -> Sequence[Tensor]:
    """The tensors of what ``run_to`` gives: one, or a named tuple of them."""
    return [state] if isinstance(state, Tensor) else list(state)


def _generator(config: LabelConfig, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(config.seed * 1_000_003 + step)


def _is_held(photo: Any, share: float) -> bool:
    """Whether a photo is one of the validation part."""
    name = photo if isinstance(photo, str | Path) else np.asarray(photo).tobytes()
    text = name if isinstance(name, bytes) else Path(name).name.encode("utf-8", "surrogateescape")
    return zlib.crc32(text) / 2**32 < share


def _check_stage(network: Regressor, config: LabelConfig) -> None:
    assert config.stage is not None
    network.check_stage(config.stage)
    varied = config.augment
    others = (varied.turn, varied.scale_sigma, varied.shift_sigma, varied.cut, varied.channel_noise)
    if any(others):
        raise ValueError(
            f"train: crops can only be mirrored where training starts at the stage "
            f"{config.stage!r}, whose inputs are computed once; set the other odds of augment to "
            "0, or train everything"
        )


def _groups(network: Regressor, config: LabelConfig) -> list[dict[str, Any]]:
    """The groups of the optimiser: trunk and head."""
    head = {id(parameter) for parameter in network.head_parameters()}
    moved = list(
        network.parameters() if config.stage is None else network.parameters_from(config.stage)
    )
    used = {id(p) for p in [*network.trunk_parameters(), *network.head_parameters()]}
    moved = [parameter for parameter in moved if id(parameter) in used]
    rate = config.lr if config.head_lr is None else config.head_lr
    groups = [
        {"params": [p for p in moved if id(p) not in head], "lr": config.lr},
        {"params": [p for p in moved if id(p) in head], "lr": rate},
    ]
    return [group for group in groups if group["params"]]


def _set_training(network: Regressor) -> None:
    """Dropout on; batch normalisation as in use, since a batch may be a handful of people."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _prior(
    body: Smpl, config: LabelConfig, parts: Sequence[LabelledPeople]
) -> GaussianMixture | None:
    """The pose prior, if somebody has no pose."""
    unposed = any(bool((part.rotmat_weight.sum(1) == 0).any()) for part in parts)
    if not unposed or not config.loss.prior:
        return None
    return load_pose_prior().mixture.to(body.v_template)
