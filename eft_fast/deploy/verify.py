"""Check an exported folder against the stored answers of torch, with or without torch at hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eft_fast.deploy.detector_verify import verify_detector
from eft_fast.deploy.fit_verify import verify_fit_model
from eft_fast.deploy.folder import FIT_SAMPLES, IMAGES, ROUNDING, hash_files, read_samples
from eft_fast.deploy.graph_checks import check_graph
from eft_fast.map_fit.config import MapConfig
from eft_fast.serving.base import Session
from eft_fast.serving.card import HASHES_NAME, SAMPLES_NAME, ModelCard, find_model, load_card
from eft_fast.serving.fitting.asset import HOW, FitAsset, load_asset
from eft_fast.serving.fitting.energy import State
from eft_fast.serving.fitting.fit import fit_people
from eft_fast.serving.session import open_session

if TYPE_CHECKING:
    from jaxtyping import Float

#: Batches that are run, besides the largest that the card promises.
BATCHES: Final = (1, 7)
#: Largest differences that may pass, by precision: rotations in degrees, lengths in metres. In
#: fp32 and fp16 to torch's fp64; half precision keeps 11 bits in the trunk. In int8 and bf16 to
#: the model that passed the gate, on another processor.
TOLERANCES: Final[Mapping[str, Mapping[str, float]]] = {
    "fp32": {
        "rotmat": 0.01, "betas": 1e-4, "cam": 1e-4, "joints": 1e-4, "vertices": 1e-4,
        "confidence": 1e-4,
    },
    "fp16": {
        "rotmat": 0.5, "betas": 0.05, "cam": 0.02, "joints": 0.01, "vertices": 0.01,
        "confidence": 0.02,
    },
    "bf16": {
        "rotmat": 2.0, "betas": 0.1, "cam": 0.03, "joints": 0.03, "vertices": 0.03,
        "confidence": 0.1,
    },
    "int8": {
        "rotmat": 2.0, "betas": 0.1, "cam": 0.03, "joints": 0.03, "vertices": 0.03,
        "confidence": 0.1,
    },
}  # fmt: skip
#: A crop on which torch's own rounding is larger than that may differ by this much of it.
ROUNDING_FACTOR: Final = 2.0
#: Largest differences of fits in numpy to torch's, both in float64, on the same stored people:
#: rotations in degrees, betas, the camera, and ``joint_sigma_mm`` in mm.
FIT_TOLERANCES: Final[Mapping[str, float]] = {
    "rotmat": 1e-3, "betas": 1e-4, "cam": 1e-5, "joint_sigma_mm": 1e-2,
}  # fmt: skip
#: How far ``R^T R`` may be from the identity.
ORTHONORMAL: Final = 1e-4


@dataclass(frozen=True)
class Report:
    """What the checks of a folder found.

    Attributes:
        provider: What ran the model.
        batches: Batch sizes that were run.
        max_difference: Per output, largest difference to torch; ``rotmat`` in degrees.
        tolerance: Per output, what passes on any crop.
        torch_rounding: Per output, largest difference of torch in single precision to torch in
            double on the same crops; twice that of a crop passes on it as well.
        orthonormality: Largest ``|R^T R - I|``.
        fit_difference: Largest difference of fits in numpy to torch's, as ``FIT_TOLERANCES``; empty
            where the export holds nothing to fit with.
        fit_model_difference: Largest difference of the file that fits to torch's fits, as
            ``fit_verify.TOLERANCES``; empty without one.
        detector_difference: Largest difference of the detector's answers to torch's, as
            ``detector_verify.TOLERANCES``; empty without one.
        checks: Check -> ``passed``, or why it was left out.
        problems: What is wrong, a sentence each; empty if all is well.
    """

    provider: str
    batches: tuple[int, ...]
    max_difference: dict[str, float]
    tolerance: dict[str, float]
    torch_rounding: dict[str, float]
    orthonormality: float
    fit_difference: dict[str, float] = field(default_factory=dict)
    detector_difference: dict[str, float] = field(default_factory=dict)
    fit_model_difference: dict[str, float] = field(default_factory=dict)
    checks: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The content of ``parity.json``."""
        return {"passed": self.passed, **asdict(self)}


def verify_folder(
    folder: str | Path,
    *,
    provider: str = "auto",
    threads: int | None = None,
) -> Report:
    """Check names, shapes, metadata and graph, and run the stored samples in batches.

    Needs the runtime of the model. Where ``onnx`` is installed too, its full checker runs.

    Args:
        folder: What ``eft-fast export`` wrote.
        provider: What is to run the model; see ``serving.open_session``.
        threads: Threads on the CPU.

    Raises:
        FileNotFoundError: If model, card or samples are not there.
        ValueError: If one of them is damaged or from another version.
        RuntimeError: If the provider does not run here.
    """
    files = find_model(folder)
    card = load_card(files.folder)
    session = open_session(folder, provider=provider, threads=threads, check_hashes=False)
    samples = load_samples(files.folder, card)
    problems: list[str] = []
    checks: dict[str, str] = {}
    _check_cards(session.card, card, problems, checks)
    _check_hashes(files.folder, problems, checks)
    if files.kind == "onnx":
        check_graph(files.path, card, problems, checks)
    else:
        checks["checker"] = checks["traces"] = "left out: not an ONNX file"
    if card.precision not in TOLERANCES:
        raise ValueError(
            f"verify: precision must be one of {list(TOLERANCES)}, got {card.precision!r}"
        )
    limits = TOLERANCES[card.precision]
    fit_difference = _check_fits(files.folder, card, samples, problems, checks)
    of_fit_model = verify_fit_model(
        files.folder,
        card,
        threads=threads,
        problems=problems,
        checks=checks,
    )
    found = verify_detector(
        files.folder,
        provider="cuda" if session.provider in ("cuda", "tensorrt") else "cpu",
        threads=threads,
        problems=problems,
        checks=checks,
    )
    report = compare(session, samples, limits, checks=checks, problems=problems)
    return replace(
        report,
        fit_difference=fit_difference,
        detector_difference=found,
        fit_model_difference=of_fit_model,
    )


def load_samples(folder: Path, card: ModelCard) -> dict[str, np.ndarray]:
    """Read the stored crops and the answers of torch.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If they are damaged or do not belong to the model.
    """
    path, samples = folder / SAMPLES_NAME, read_samples(folder)
    count, size = len(samples.get(IMAGES, ())), card.input_size
    shapes: dict[str, tuple[int, ...]] = {IMAGES: (count, size, size, 3)}
    shapes |= {name: (count, *shape) for name, shape in card.outputs.items()}
    shapes |= {name: (count,) for name in samples if name.startswith(ROUNDING)}
    for name, shape in shapes.items():
        got = samples[name].shape if name in samples else None
        if not count or got != shape:
            raise ValueError(
                f"verify: {path} must hold {name} {list(shape)}, got "
                f"{'none' if got is None else list(got)}; run eft-fast export again"
            )
    return samples


def compare(
    session: Session,
    samples: Mapping[str, np.ndarray],
    tolerance: Mapping[str, float],
    *,
    batches: tuple[int, ...] | None = None,
    checks: dict[str, str] | None = None,
    problems: list[str] | None = None,
) -> Report:
    """Run the samples in several batch sizes and hold every answer against torch's.

    Args:
        session: The model.
        samples: What ``load_samples`` gives.
        tolerance: Per output, what may pass.
        batches: Batch sizes; default: ``BATCHES`` and the largest that the card promises.
        checks: Checks that were made before.
        problems: What they found.
    """
    checks, problems = checks if checks is not None else {}, list(problems or ())
    images = samples[IMAGES]
    batches = batches or tuple(sorted({*BATCHES, session.card.max_batch}))
    names = tuple(session.card.outputs)
    worst, skew, over = dict.fromkeys(names, 0.0), 0.0, set[str]()
    rounding = {name: samples.get(ROUNDING + name, np.zeros(len(images))) for name in names}
    for batch in batches:
        # Each sample comes up in every batch size, also alone.
        for start in range(0, max(batch, len(images)), batch):
            rows = np.arange(start, start + batch) % len(images)
            outputs = session.run(images[rows])
            for name, value in outputs.items():
                expected = samples[name][rows]
                if value.shape != expected.shape or value.dtype != np.float32:
                    problems.append(
                        f"{name} must be float32 {list(expected.shape)} in a batch of {batch}, got "
                        f"{value.dtype} {list(value.shape)}"
                    )
                    continue
                # NaN compares false to everything: it has to count as infinitely far.
                far = np.nan_to_num(difference(name, value, expected), nan=np.inf)
                limit = np.maximum(tolerance[name], ROUNDING_FACTOR * rounding[name][rows])
                over |= set() if (far <= limit).all() else {name}
                worst[name] = max(worst[name], float(far.max()))
            skew = max(skew, _skew(outputs["rotmat"]))
    limits = {name: tolerance[name] for name in names}
    own = {name: float(rounding[name].max()) for name in names}
    if over:
        listed = ", ".join(_amount(name, worst[name], limits[name], own[name]) for name in names)
        problems.append(f"the answers differ from torch: {listed}")
    if not skew <= ORTHONORMAL:
        problems.append(f"rotations must be orthonormal to {ORTHONORMAL:g}, got {skew:.2g}")
    checks.setdefault("answers", "failed" if over else "passed")
    return Report(
        provider=session.provider,
        batches=batches,
        max_difference=worst,
        tolerance=limits,
        torch_rounding=own,
        orthonormality=skew,
        checks=checks,
        problems=tuple(problems),
    )


def difference(name: str, got: np.ndarray, expected: np.ndarray) -> Float[np.ndarray, " N"]:
    """Largest difference of each person: degrees for ``rotmat``, else the output's own unit."""
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    if name == "rotmat":
        return np.asarray(rotation_angle(got, expected).max(axis=1))
    return np.asarray(np.abs(got - expected).reshape(len(got), -1).max(axis=1))


def rotation_angle(
    a: Float[np.ndarray, "*batch 3 3"], b: Float[np.ndarray, "*batch 3 3"]
) -> Float[np.ndarray, "*batch"]:
    """Angle between rotations in degrees: 2 asin(|A - B| / sqrt 8).

    The arc cosine of the trace has a floor of .04 degrees in single precision; this has none.
    """
    distance = np.sqrt(((a - b) ** 2).sum(axis=(-2, -1)) / 8.0)
    return np.asarray(np.degrees(2.0 * np.arcsin(np.minimum(distance, 1.0))))


def _check_fits(
    folder: Path,
    card: ModelCard,
    samples: Mapping[str, np.ndarray],
    problems: list[str],
    checks: dict[str, str],
) -> dict[str, float]:
    """Fit the stored people in numpy and compare with torch's fits of them."""
    if not card.fit_sha256:
        checks["fit"] = f"left out: fits are not possible with this export; {HOW}"
        return {}
    try:
        worst = compare_fits(load_asset(folder, card), samples)
    except (ValueError, KeyError) as error:
        missing = f"verify: the stored fits lack {error}; run eft-fast export again"
        problems.append(missing if isinstance(error, KeyError) else str(error))
        checks["fit"] = "failed"
        return {}
    over = [name for name, limit in FIT_TOLERANCES.items() if not worst[name] <= limit]
    if over:
        listed = ", ".join(f"{name} {worst[name]:.2g}" for name in over)
        problems.append(f"fits in numpy differ from torch's: {listed}")
    checks["fit"] = "failed" if over else "passed"
    return worst


def compare_fits(asset: FitAsset, samples: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Largest difference of fits in numpy to the stored ones, over all cameras."""
    stored = {
        name.removeprefix(FIT_SAMPLES): value
        for name, value in samples.items()
        if name.startswith(FIT_SAMPLES)
    }
    init = State(*(stored[f"pred_{name}"] for name in ("rotmat", "betas", "cam")))
    worst = dict.fromkeys(FIT_TOLERANCES, 0.0)
    for camera in ("assumed", "weak", "given"):
        fits = fit_people(
            asset,
            init,
            stored["keypoints"],
            config=MapConfig(distance=None) if camera == "weak" else MapConfig(),
            pinhole=stored["pinhole"] if camera == "given" else None,
        )
        found = fits.final._asdict() | {"joint_sigma_mm": fits.joint_sigma_mm}
        for name, value in worst.items():
            far = np.nan_to_num(
                difference(name, found[name], stored[f"{camera}/{name}"]), nan=np.inf
            )
            worst[name] = max(value, float(far.max(initial=0.0)))
    return worst


def _skew(rotmat: np.ndarray) -> float:
    wide = rotmat.astype(np.float64)
    product = np.swapaxes(wide, -1, -2) @ wide
    return float(np.nan_to_num(np.abs(product - np.eye(3)), nan=np.inf).max())


def _amount(name: str, got: float, limit: float, own: float) -> str:
    unit = " degrees" if name == "rotmat" else ""
    extra = f", torch itself {own:.2g}" if own > limit else ""
    return f"{name} {got:.2g}{unit} (at most {limit:g}{extra})"


def _check_cards(
    inside: ModelCard, beside: ModelCard, problems: list[str], checks: dict[str, str]
) -> None:
    """What the file says of itself and what stands beside it must agree."""
    ours, theirs = asdict(inside), asdict(beside)
    differing = [name for name in ours if ours[name] != theirs[name]]
    if differing:
        problems.append(
            f"model and export.json must agree, but {differing[0]} is {ours[differing[0]]!r} in "
            f"the one and {theirs[differing[0]]!r} in the other"
        )
    checks["metadata"] = "failed" if differing else "passed"


def _check_hashes(folder: Path, problems: list[str], checks: dict[str, str]) -> None:
    path = folder / HASHES_NAME
    if not path.is_file():
        checks["hashes"] = f"left out: no {HASHES_NAME}"
        return
    try:
        stored = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        problems.append(f"{HASHES_NAME} is damaged")
        return
    found = hash_files(folder)
    changed = [name for name, digest in stored.items() if found.get(name) != digest]
    if changed:
        problems.append(f"{changed[0]} is not the file that was exported")
    checks["hashes"] = "failed" if changed else "passed"
