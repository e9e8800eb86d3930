"""What pseudo-truth is worth: a regressor trained on fits, beside one trained on other labels.

The second application of EFT (Joo et al. 2020): fit bodies to a 2D dataset, and train a new
regressor on the fits as if they were the truth. Here the 2D dataset is rendered, so that the truth
is known, and the same new network (a new head on the published trunk) is trained with the same
batches and seeds on

    truth        the true pose and shape, and the 2D keypoints
    map          pseudo-truth: fits by method "map", started from the regressor of the package
    eft_head     pseudo-truth: fits by EFT of the head, with the tie (slow: 0.1 s a person)
    smplify      pseudo-truth: SMPLify (smplify_spin) under the GMM prior, from the start of map
    2d           the 2D keypoints alone, under the pose prior; its weight is chosen on other renders

and all are scored on held-out renders of other motion. Keypoints are labels with noise, the same
ones for all. The defaults take about an hour on two cores, by an estimate from their parts:

    python examples/pseudo_truth_table.py --work table --motion cmu

Without --motion, poses are drawn from the pose prior of the package. Everything goes on where it
was stopped; --rows names the rows that are wanted.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import eft_fast
from eft_fast.body import Smpl
from eft_fast.eft.config import EftConfig
from eft_fast.evaluation import metrics
from eft_fast.models.base import Regressor
from eft_fast.sample import Sample
from eft_fast.smplify.config import SmplifyConfig
from eft_fast.synth import SynthConfig, SynthJob, load_set, write_set
from eft_fast.training.crops import PLAIN
from eft_fast.training.label_run import FRESH, make_start
from eft_fast.training.labels import LabelledPeople
from eft_fast.training.measure import score_people
from eft_fast.training.on_labels import FrozenStates, LabelConfig, Mixture, train_on_labels

ROWS = ("truth", "map", "eft_head", "smplify", "2d")
#: What is compared with what; the second is the reference.
PAIRS = (
    ("map", "2d"),
    ("map", "smplify"),
    ("map", "truth"),
    ("eft_head", "map"),
    ("smplify", "2d"),
)
#: How the people of the dataset and those of the test are drawn.
SEEDS = {"train": 4242, "val": 4243, "test": 4244}
#: Fewest labelled keypoints of a person that is learned from or scored.
MIN_KEYPOINTS = 6
STAGE = "head"


def main() -> int:
    options = parse()
    torch.set_num_threads(options.threads)
    body = eft_fast.load_body()
    train = render(options, "train", options.people)
    test = LabelledPeople.from_samples(render(options, "test", options.test), body)
    noisy = [with_noise(sample, options.noise) for sample in train]
    everybody = LabelledPeople.from_samples(noisy, body)
    starts = [make_start(FRESH, everybody, seed) for seed in range(options.seeds)]
    states = FrozenStates(starts[0], STAGE)
    found: dict[str, dict[str, np.ndarray]] = {}
    for row in options.rows:
        people = labels_of(row, noisy, train, body, options)

        def score(seed: int, prior: float, test: LabelledPeople, row=row, people=people):
            network = copy.deepcopy(starts[seed])
            train_one(row, seed, prior, network, people, body, states, options)
            return score_people(network, body, test)

        prior = options.prior[0]
        if row == "2d" and len(options.prior) > 1:
            val = LabelledPeople.from_samples(render(options, "val", options.val), body)
            errors = {w: score(0, w, val)["pa_mpjpe_mm"].mean() for w in options.prior}
            prior = min(errors, key=errors.__getitem__)
            tried = ", ".join(f"{weight:g}: {error:.1f}" for weight, error in errors.items())
            print(f"2d: PA-MPJPE by the prior's weight, validation: {tried}", file=sys.stderr)
        columns: dict[str, list[np.ndarray]] = {}
        for seed in range(options.seeds):
            for name, values in score(seed, prior, test).items():
                columns.setdefault(name, []).append(values)
        # The mean over seeds of each person; intervals are over people.
        found[row] = {name: np.mean(values, 0) for name, values in columns.items()}
        regressor_line(row, len(people), found[row])
    write(found, options)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of everything")
    parser.add_argument("--motion", type=Path, help="folder of motion capture")
    parser.add_argument("--backgrounds", type=Path, help="folder of photographs")
    parser.add_argument("--people", type=int, default=3000, help="rendered pictures to learn from")
    parser.add_argument("--test", type=int, default=500, help="rendered pictures to score on")
    parser.add_argument("--noise", type=float, default=0.012, help="of labels, of a person's size")
    parser.add_argument("--steps", type=int, default=1500, help="updates of each training")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3, help="of the head")
    parser.add_argument(
        "--prior",
        type=float,
        nargs="+",
        default=[0.0001, 0.0005, 0.002, 0.01],
        help="weights of the row 2d; of several the best on validation renders",
    )
    parser.add_argument("--val", type=int, default=300, help="rendered pictures to choose it on")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each row")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, help="that render")
    return parser.parse_args()


def render(options: argparse.Namespace, split: str, count: int) -> list[Sample]:
    """The people of a rendered set, which is made if it is not there."""
    job = SynthJob(
        out=options.work / split,
        split=split,
        count=count,
        motion=options.motion,
        backgrounds=options.backgrounds,
        config=SynthConfig(seed=SEEDS[split]),
        shard_size=50,
    )
    write_set(job, processes=options.processes)
    return list(load_set(job.out, min_keypoints=MIN_KEYPOINTS))


def with_noise(sample: Sample, noise: float) -> Sample:
    """A person whose labels are off by a normal error, a share of the longer side of the box."""
    rng = np.random.default_rng([7, int(sample.id)])
    keypoints = sample.keypoints_2d_px.copy()
    box = sample.bbox_xywh
    size = max(float(box[2]), float(box[3])) if box is not None else 0.0
    keypoints[:, :2] += noise * size * rng.normal(size=(len(keypoints), 2))
    return replace(sample, keypoints_2d_px=keypoints)


def labels_of(
    row: str, noisy: list[Sample], train: list[Sample], body: Smpl, options: argparse.Namespace
) -> LabelledPeople:
    """What a row learns from."""
    if row in ("truth", "2d"):
        return LabelledPeople.from_samples(noisy, body, only_2d=row == "2d")
    file = options.work / f"{row}.npz"
    if file.is_file():
        result = eft_fast.FitResult.load(file)
    else:
        start = time.perf_counter()
        method, config = {
            "map": ("map", None),
            "eft_head": ("eft", EftConfig()),
            "smplify": ("smplify_spin", SmplifyConfig(recipe="smplify_spin", prior="gmm")),
        }[row]
        result = eft_fast.fit_batch(
            [str(sample.image) for sample in noisy],
            np.stack([sample.keypoints_2d_px for sample in noisy]),
            bboxes=np.stack([sample.bbox_xywh for sample in noisy]),
            method=method,
            config=config,
            **({"mode": "head"} if row == "eft_head" else {}),
        )
        result.save(file)
        print(f"{row}: {len(result) / (time.perf_counter() - start):.1f} fits/s", file=sys.stderr)
    people = LabelledPeople.from_fits(result, [sample.image for sample in noisy], body)
    print(f"{row}: {len(people)} of {len(result)} fits kept, {people.left_out}", file=sys.stderr)
    return people


def train_one(
    row: str,
    seed: int,
    prior: float,
    network: Regressor,
    people: LabelledPeople,
    body: Smpl,
    states: FrozenStates,
    options: argparse.Namespace,
) -> None:
    """Train one network, in place."""
    config = LabelConfig(
        seed=seed,
        steps=options.steps,
        batch=options.batch,
        lr=options.lr,
        weight_decay=0.03,
        validate_every=250,
        stage=STAGE,
        augment=replace(PLAIN, mirror=0.5),
    )
    config = replace(config, loss=replace(config.loss, prior=prior))
    weight = f"-{prior:g}" if row == "2d" else ""
    state = options.work / f"{row}{weight}-{seed}.pt"
    train_on_labels(network, body, Mixture((people,), (1.0,)), config, state=state, states=states)


def regressor_line(row: str, people: int, columns: dict[str, np.ndarray]) -> None:
    numbers = ", ".join(f"{name} {values.mean():.1f}" for name, values in columns.items())
    print(f"{row}: {people} people, {numbers}", file=sys.stderr)


def write(found: dict[str, dict[str, np.ndarray]], options: argparse.Namespace) -> None:
    """The table, with 95 % intervals over the people of the test."""
    lines = ["| labels | PA-MPJPE mm | MPJPE mm |", "|---|---|---|"]
    facts: dict[str, object] = {"people": options.people, "test": options.test}
    for row, columns in found.items():
        cells = []
        for name in ("pa_mpjpe_mm", "mpjpe_mm"):
            mean = metrics.mean_row(name, columns[name])
            facts |= {f"{row}_{key}": value for key, value in mean.items()}
            cells.append(
                f"{mean[name]:.1f} ({mean[f'{name}_low']:.1f} to {mean[f'{name}_high']:.1f})"
            )
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    for first, second in PAIRS:
        if first in found and second in found:
            gap = found[first]["pa_mpjpe_mm"] - found[second]["pa_mpjpe_mm"]
            mean = metrics.mean_row("gap", gap)
            share = gap.mean() / found[second]["pa_mpjpe_mm"].mean()
            lines.append(
                f"{first} minus {second}: {mean['gap']:+.1f} mm PA ({mean['gap_low']:+.1f} to "
                f"{mean['gap_high']:+.1f}), {share:+.1%}"
            )
            facts[f"{first}_minus_{second}"] = mean
    print("\n".join(lines))
    (options.work / "table.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
