"""SPIN on annotated photos: ``python -m eft_fast.training.spin``.

A regressor learns from photos with 2D keypoints alone: SMPLify, started from the regressor, makes
the labels in the loop (``smplify.spin``). The best fits at the end are labels, too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eft_fast import imaging
from eft_fast.body import Smpl, load_body
from eft_fast.data import open_annotations
from eft_fast.files import save_npz
from eft_fast.keypoints import spin49_flip
from eft_fast.models import load_regressor
from eft_fast.models.base import Regressor
from eft_fast.models.open_file import save_open_regressor
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.pipeline.prepare import prepare_person
from eft_fast.smplify.config import RECIPES, SmplifyConfig
from eft_fast.smplify.spin import BestFits, SpinConfig, SpinStep, SpinTrainer

#: Called with the number of the update and what it did.
UpdateCallback = Callable[[int, SpinStep], None]


@dataclass(frozen=True)
class SpinRun:
    """Options of a run.

    Attributes:
        steps: Updates.
        batch: People per update; never the same person twice in one.
        seed: Of the order and of the mirrored people.
        mirror: Share of people that are mirrored.
        spin: Options of the method.
    """

    steps: int = 1000
    batch: int = 64
    seed: int = 0
    mirror: float = 0.5
    spin: SpinConfig = field(default_factory=SpinConfig)

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        if self.steps < 1 or self.batch < 1:
            raise ValueError(
                f"SpinRun: steps and batch must be at least 1, got {self.steps} and {self.batch}"
            )
        if not 0 <= self.mirror <= 1:
            raise ValueError(f"SpinRun: mirror must be a share in [0, 1], got {self.mirror}")


class AnnotatedCrops:
    """People of an annotation file as crops and 49 keypoints, read when they are asked for.

    Args:
        annotations: Any file or folder that ``data.open_annotations`` reads.
        photos: Folder of the photos.
        regressor: Says how crops are cut and normalised.
    """

    def __init__(self, annotations: str | Path, photos: Path, regressor: Regressor) -> None:
        samples = open_annotations(str(annotations), photos, min_keypoints=8)
        self._samples = [s for s in samples if s.problem is None and s.image is not None]
        self._regressor = regressor

    def __len__(self) -> int:
        return len(self._samples)

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Crops [B,3,S,S] and keypoints [B,49,3]; a photo that cannot be read is NaN."""
        crops, keypoints = [], []
        for row in rows.tolist():
            sample = self._samples[row]
            photo: np.ndarray | Exception
            try:
                photo = imaging.load_image(Path(str(sample.image)))
            except (OSError, ValueError) as error:
                photo = error
            person = prepare_person(sample, photo, self._regressor)
            size = self._regressor.input_size
            nothing = torch.full((3, size, size), float("nan"))
            crops.append(nothing if person.img is None else person.img)
            keypoints.append(person.keypoints_2d)
        return torch.stack(crops), torch.stack(keypoints)


def train_spin(
    regressor: Regressor,
    body: Smpl,
    read: Callable[[Tensor], tuple[Tensor, Tensor]],
    count: int,
    run: SpinRun,
    *,
    on_update: UpdateCallback | None = None,
) -> BestFits:
    """Train a regressor in the loop with SMPLify.

    Args:
        regressor: Changed in place.
        body: Body model on the same device.
        read: Gives crops and keypoints of people by number.
        count: How many people there are.
        run: Options.
        on_update: Called after each update.

    Returns:
        The best fit of everybody who was fitted.

    Raises:
        ValueError: If there is nobody.
    """
    if count < 1:
        raise ValueError("train_spin: at least one person expected, got none")
    device = next(regressor.parameters()).device
    trainer = SpinTrainer(regressor, body, count, config=run.spin)
    generator = torch.Generator().manual_seed(run.seed)
    for number, rows in zip(range(run.steps), _batches(count, run.batch, generator), strict=False):
        img, keypoints_2d = read(rows)
        mirrored = torch.rand(len(rows), generator=generator) < run.mirror
        img, keypoints_2d = mirror_people(img, keypoints_2d, mirrored)
        step = trainer.step(
            img.to(device), keypoints_2d.to(device), rows.to(device), mirrored=mirrored.to(device)
        )
        if on_update is not None:
            on_update(number, step)
    return trainer.best


def mirror_people(img: Tensor, keypoints_2d: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Reverse the columns of crops, and swap and reverse their keypoints alike.

    Pixel 0 becomes pixel S - 1, while -1 and 1 of a keypoint are pixel 0 and pixel S.
    """
    reverse = keypoints_2d.new_tensor([-1.0, 1.0, 1.0])
    shift = keypoints_2d.new_tensor([-2.0 / img.shape[-1], 0.0, 0.0])
    swapped = keypoints_2d[:, list(spin49_flip)] * reverse + shift
    rows = which[:, None, None]
    return (
        torch.where(rows[..., None], img.flip(-1), img),
        torch.where(rows, swapped, keypoints_2d),
    )


def _batches(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Everybody in a new random order, again and again."""
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order.split(batch)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train on a file of annotated photos; return the exit code."""
    args = _parser().parse_args(arguments)
    torch.set_num_threads(args.threads)
    try:
        regressor = load_regressor(args.regressor)
        if not isinstance(regressor, OpenRegressor):
            raise ValueError(
                f"spin: the open regressor is expected, whose weights can be written, got "
                f"{regressor.id}; call training.spin.train_spin for other networks"
            )
        crops = AnnotatedCrops(args.annotations, args.photos, regressor)
        fit = SmplifyConfig(recipe=args.recipe, start="regressor", prior=args.prior)
        run = SpinRun(
            steps=args.steps,
            batch=args.batch,
            seed=args.seed,
            spin=replace(SpinConfig(fit=fit), lr=args.lr),
        )
        best = train_spin(regressor, load_body(), crops, len(crops), run, on_update=_tell)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    save_open_regressor(regressor, args.out / "spin.npz", licence="Apache-2.0", source_sha256="")
    fits = {name: value.cpu().numpy() for name, value in vars(best).items()}
    save_npz(args.out / "best_fits.npz", fits)
    print(json.dumps({"people": len(crops), "fitted": int(best.has_fit.sum())}))
    return 0


def _tell(number: int, step: SpinStep) -> None:
    print(
        f"update {number + 1}: loss {float(step.loss.nanmean()):.3f}, "
        f"{int(step.is_new.sum())} better fits, {int(step.teaches.sum())} teach",
        file=sys.stderr,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eft_fast.training.spin",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m eft_fast.training.spin --photos val2017 "
        "--annotations person_keypoints_val2017.json --out run",
    )
    parser.add_argument("--photos", type=Path, required=True, help="folder of the photos")
    parser.add_argument("--annotations", required=True, help="file of their keypoints")
    parser.add_argument("--out", type=Path, required=True, help="folder of weights and fits")
    parser.add_argument("--regressor", default="open", help="weights to start from")
    parser.add_argument("--recipe", default="smplify_spin", choices=RECIPES)
    parser.add_argument("--prior", default="gmm", help="of SMPLify")
    parser.add_argument("--steps", type=int, default=SpinRun.steps)
    parser.add_argument("--batch", type=int, default=SpinRun.batch)
    parser.add_argument("--lr", type=float, default=SpinConfig.lr)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
