"""A training run on labelled photos, as a TOML file or a command line says it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from eft_fast.body import Smpl
from eft_fast.files import make_folder, whole_file
from eft_fast.geometry.rotations import axis_angle_to_matrix, matrix_to_rot6d
from eft_fast.models.base import Regressor
from eft_fast.models.blazepose import load_published_blazepose
from eft_fast.models.error_covariance import covariance_beside
from eft_fast.models.hmr import Hmr
from eft_fast.models.movenet_file import save_movenet_regressor
from eft_fast.models.movenet_regressor import MoveNetRegressor
from eft_fast.models.open_file import save_open_regressor
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.models.registry import load_regressor
from eft_fast.smplify.prior import load_pose_prior
from eft_fast.training.config import check_numbers
from eft_fast.training.crops import PLAIN, CropReader
from eft_fast.training.error_covariance import calibration_job, measure_on_renders
from eft_fast.training.labels import LabelledPeople, join_people
from eft_fast.training.on_labels import LabelConfig, Mixture, train_on_labels

#: What a run may start from beside a file of weights: the shipped weights, or a new head on the
#: published trunk.
OPEN, FRESH = "open", "fresh"
#: Which labels of a source are used.
LABELS: Final = ("all", "2d")
#: People whose features set the statistics of a new head.
_STATISTICS_PEOPLE: Final = 1024
_CHUNK: Final = 16
#: Licence of weights that grew out of the shipped ones; what the data ask for comes on top.
_LICENCE: Final = "Apache-2.0"


@dataclass(frozen=True)
class DataSource:
    """Labelled photos.

    Attributes:
        path: A folder of ``eft-fast fit`` or its ``fits.npz``, a folder of ``eft-fast synth``, or
            annotations of any reader.
        share: How often it is drawn from, beside the others.
        photos: Folder of the photos, where ``path`` does not say where they are.
        labels: ``all``: poses and points in space where they are known; ``2d``: keypoints only.
        select: Of fits: only those that pass the rules of ``pseudo_gt``.
        sigma_mm: Of fits: see ``LabelledPeople.from_fits``.
    """

    path: Path
    share: float = 1.0
    photos: Path | None = None
    labels: str = "all"
    select: bool = True
    sigma_mm: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no source can be."""
        check_numbers(self, "train")
        if self.labels not in LABELS:
            raise ValueError(
                f"train: labels must be one of {', '.join(LABELS)}, got {self.labels!r}"
            )


@dataclass(frozen=True)
class LabelRun:
    """A run.

    Attributes:
        work: Folder of the run: its state, its log and, at the end, its weights.
        data: What to learn from.
        start: ``open``, ``fresh``, or a file of weights that ``load_regressor`` takes.
        body: Body of the labels, as ``load_body`` takes it.
        options: How to train.
        threads: Threads of torch.
        device: Where to compute.
        calibration: Rendered people on whom the errors of the finished weights are measured, for
            ``map`` and for EFT's tie; 0: none.
        tensorboard: Write event files for TensorBoard into ``work/tensorboard``.
    """

    work: Path
    data: tuple[DataSource, ...]
    start: str = OPEN
    body: str = OPEN
    options: LabelConfig = field(default_factory=LabelConfig)
    threads: int = 1
    device: str = "cpu"
    calibration: int = 1000
    tensorboard: bool = False

    def __post_init__(self) -> None:
        """Refuse a run without data."""
        check_numbers(self, "train", at_least={"calibration": 0})
        if not self.data:
            raise ValueError("train: at least one source of data expected, got none")


def make_start(start: str, people: LabelledPeople, seed: int) -> Regressor:
    """The network that a run starts from.

    A new head answers the mean pose of the shipped prior, upright and seen from the front, so that
    it knows nothing that labels would have to teach it.

    Args:
        start: As of ``LabelRun``.
        people: Whose features set the statistics of a new head.
        seed: Of the weights of a new head.
    """
    if start != FRESH:
        network = load_regressor(start)
        if isinstance(network, OpenRegressor | MoveNetRegressor):
            # Its confidence is that of the weights before.
            network.head.certainty, network.has_confidence = None, False
        return network
    torch.manual_seed(seed)
    network = OpenRegressor(load_published_blazepose(), dropout=0.15, confidence=False)
    rows = torch.arange(min(len(people), _STATISTICS_PEOPLE))
    features = list(_features(network, people, rows))
    pose = axis_angle_to_matrix(load_pose_prior().mixture.mean_pose().reshape(23, 3).float())
    upright = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    mean_pose = matrix_to_rot6d(torch.cat([upright[None], pose]))
    stack = torch.cat(features)
    network.set_feature_statistics(stack.mean(0), stack.std(0), mean_pose)
    return network


@torch.no_grad()
def _features(
    network: OpenRegressor, people: LabelledPeople, rows: torch.Tensor
) -> Iterator[torch.Tensor]:
    read = CropReader(people, network, PLAIN)
    network.eval()
    for part in rows.split(_CHUNK):
        img, _ = read(part, torch.Generator().manual_seed(0))
        yield network.head_input(network.features(img))[0]


def run_label_training(
    run: LabelRun,
    sources: Sequence[LabelledPeople],
    body: Smpl,
    *,
    on_save: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Train, write the weights with their errors, and say what was done.

    Args:
        run: Options.
        sources: The people of ``run.data``, in that order.
        body: The body of ``run.body``.
        on_save: Called after each saved state.

    Raises:
        ValueError: If the network predicts another body, or there is nobody to learn from.
    """
    shares = [source.share for source in run.data]
    kept = [(people, share) for people, share in zip(sources, shares, strict=True) if len(people)]
    if not kept:
        raise ValueError(
            "train: people to learn from expected, got none: "
            + "; ".join(f"{key} {n}" for people in sources for key, n in people.left_out.items())
        )
    everybody = join_people([people for people, _ in kept])
    network = make_start(run.start, everybody, run.options.seed)
    if network.body_id not in (body.arrays.family, body.id):
        raise ValueError(
            f"train: the regressor predicts body {network.body_id}, got body {body.id}; give the "
            "body that it was trained with"
        )
    device = torch.device(run.device)
    network, body = network.to(device), body.to(device)
    make_folder(run.work)
    with _event_log(run) as log:
        losses = train_on_labels(
            network,
            body,
            Mixture(tuple(people for people, _ in kept), tuple(share for _, share in kept)),
            run.options,
            state=run.work / "labels.pt",
            on_save=on_save,
            log=log,
        )
    weights = save_weights(network.cpu(), run.work)
    summary = {
        "people": len(everybody),
        "left_out": everybody.left_out,
        "steps": run.options.steps,
        "loss": losses[-1] if losses else None,
        "weights": str(weights),
    }
    if run.calibration:
        finished = load_regressor(weights)
        job = calibration_job(finished, run.work / "calibration", run.calibration, body=run.body)
        errors = covariance_beside(weights)
        measure_on_renders(finished, body.cpu(), job).save(errors)
        summary["errors"] = str(errors)
    return summary


def save_weights(network: Regressor, work: Path) -> Path:
    """Write finished weights in the form that ``load_regressor`` reads.

    Raises:
        TypeError: If there is no file format for the network.
    """
    if isinstance(network, OpenRegressor):
        path = work / "regressor.npz"
        save_open_regressor(network, path, licence=_LICENCE, source_sha256="")
        return path
    if isinstance(network, MoveNetRegressor):
        path = work / "regressor.npz"
        save_movenet_regressor(network, path, licence=_LICENCE, source_sha256="")
        return path
    if isinstance(network, Hmr):
        path = work / "regressor.pt"
        with whole_file(path) as file:
            torch.save({"model": network.state_dict()}, file)
        return path
    raise TypeError(
        f"train: weights of an open regressor or of an HMR network can be written, got "
        f"{type(network).__name__}; call training.on_labels.train_on_labels and save them yourself"
    )


@contextmanager
def _event_log(run: LabelRun) -> Iterator[Callable[[int, Mapping[str, float]], None] | None]:
    """Where scores go beside the log in the folder: event files, if they are asked for."""
    if not run.tensorboard:
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ModuleNotFoundError(
            "train: event files need the package tensorboard, which is not installed; install "
            "eft-fast[train], or leave tensorboard out: the log is in labels.jsonl as well"
        ) from None
    with SummaryWriter(str(run.work / "tensorboard")) as writer:

        def log(step: int, facts: Mapping[str, float]) -> None:
            for name, value in facts.items():
                writer.add_scalar(name, value, step)

        yield log
