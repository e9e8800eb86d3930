"""Exported models on a GPU: ONNX Runtime's CUDA and TensorRT providers, and a TensorRT engine.

Run by ``gpu_check.py``: exports the package's regressor, then opens it with each provider, compares
its answers with the stored ones of torch (``eft_fast.deploy.verify_folder``), and writes a CSV of
milliseconds per batch, pictures and answers in the host's memory. What is not installed is left out
by name. ONNX Runtime never raises where a GPU provider fails: it runs on the CPU. ``open_session``
looks at what a session really uses, and a provider that is installed and does not run is a failure
under EFT_FAST_REQUIRE_CUDA=1; without it, one that is left out.

``--rehearse``: the CPU provider and a tiny network, where nothing is measured.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from eft_fast.models.base import Regressor

#: What an export needs, and every provider with it.
NEEDED = ("onnx", "onnxscript", "onnxruntime")
PROVIDERS = ("cuda", "tensorrt")
#: Kinds of files: the trunk in half precision is for GPUs.
PRECISIONS = ("fp32", "fp16")
BATCHES = (1, 8, 64)
ROUNDS = 20
COLUMNS = (
    "provider", "precision", "batch", "milliseconds_median", "images_per_second",
    "rotation_difference_degrees", "device", "onnxruntime", "commit",
)  # fmt: skip


@dataclass
class Outcome:
    """How one provider ended.

    Attributes:
        what: Provider, or engine, and precision.
        ending: ``passed``, or what was wrong, in words.
        failed: Whether the whole check fails with it.
    """

    what: str
    ending: str
    failed: bool = False


def is_required() -> bool:
    """Whether a GPU that does not run is a failure."""
    return os.environ.get("EFT_FAST_REQUIRE_CUDA") == "1"


def missing_package(provider: str) -> str | None:
    """What is not installed that a provider is made of, in words; None: all is there."""
    import onnxruntime

    names = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "Tensorrt"}
    if f"{names[provider]}ExecutionProvider" not in onnxruntime.get_available_providers():
        return "onnxruntime-gpu is not installed"
    if provider == "tensorrt":
        return load_tensorrt()
    return None


def load_tensorrt() -> str | None:
    """Load TensorRT, whose libraries ONNX Runtime then finds; what is missing, or None."""
    if importlib.util.find_spec("tensorrt") is None:
        return "tensorrt is not installed"
    try:
        importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        return f"tensorrt cannot be loaded ({' '.join(str(error).split())})"
    return None


class Rows:
    """The CSV, written as it is measured."""

    def __init__(self, path: Path, device: str) -> None:
        import onnxruntime

        from tools.gpu_ops import current_commit

        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", newline="")
        self._writer = csv.writer(self._file)
        self._place = [device, onnxruntime.__version__, current_commit()]
        self._writer.writerow(COLUMNS)

    def add(self, provider: str, precision: str, batch: int, seconds: float, degrees: float):
        """Print and write one row."""
        rate = batch / seconds
        figures = [f"{1000 * seconds:.3f}", f"{rate:.1f}", f"{degrees:.5f}"]
        self._writer.writerow([provider, precision, batch, *figures, *self._place])
        self._file.flush()
        print(
            f"{provider:9} {precision} {batch:3} images {1000 * seconds:8.2f} ms {rate:9.1f} /s",
            flush=True,
        )


def try_provider(exports: Exports, provider: str, precision: str, rows: Rows) -> Outcome:
    """Verify and time an exported folder with one provider."""
    from eft_fast.deploy import verify_folder
    from eft_fast.serving.session import open_session

    what = f"{provider} {precision}"
    if missing := missing_package(provider):
        return Outcome(what, f"left out: {missing}")
    folder = exports.folder(precision)
    try:
        report = verify_folder(folder, provider=provider)
        session = open_session(folder, provider=provider)
    except RuntimeError as error:
        if is_required():
            return Outcome(what, f"failed: {error}", True)
        return Outcome(what, f"left out: {error}")
    if not report.passed:
        return Outcome(what, "failed: " + "; ".join(report.problems), True)
    if session.provider != provider or report.provider != provider:
        return Outcome(what, f"failed: the model ran on {session.provider}", True)
    for batch in BATCHES:
        seconds = time_batch(session.run, batch, session.card.input_size)
        rows.add(provider, precision, batch, seconds, report.max_difference["rotmat"])
    return Outcome(what, "passed")


def time_batch(run: Callable[[Any], object], batch: int, size: int) -> float:
    """Median seconds of one call on noise, after a few that warm up."""
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    seconds = []
    for _ in range(ROUNDS + 3):
        start = time.perf_counter()
        run(noise)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[3:])


def try_engine(exports: Exports, precision: str) -> Outcome:
    """Build a TensorRT engine for this GPU from an exported folder."""
    from eft_fast.deploy.tensorrt import build_engine
    from eft_fast.serving.card import load_card

    what = f"TensorRT engine {precision}"
    if missing := load_tensorrt():
        return Outcome(what, f"left out: {missing}")
    folder = exports.folder(precision)
    start = time.perf_counter()
    try:
        engine = build_engine(folder / "model.onnx", load_card(folder))
    except (ImportError, RuntimeError) as error:
        if is_required():
            return Outcome(what, f"failed: {error}", True)
        return Outcome(what, f"left out: {error}")
    seconds = time.perf_counter() - start
    return Outcome(what, f"passed: {len(engine) >> 20} MiB in {seconds:.0f} s")


def make_regressor() -> Regressor:
    """The network that ships with the package."""
    from eft_fast.models.registry import load_regressor

    return load_regressor()


def make_tiny() -> Regressor:
    """All the same layers, a thousandth of the size."""
    from eft_fast.models.open_regressor import OpenRegressor

    return OpenRegressor.make_tiny()


class Exports:
    """Exported folders by precision, made when one is first asked for."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.made: dict[str, Path] = {}

    def folder(self, precision: str) -> Path:
        """Export the network, for as many images as are timed at most."""
        from eft_fast.deploy import ExportConfig, export_regressor

        if precision not in self.made:
            folder = self._scratch / precision
            config = ExportConfig(precision=precision, max_batch=max(BATCHES))
            export_regressor(make_regressor(), folder, config=config)
            self.made[precision] = folder
        return self.made[precision]


def check_all(exports: Exports, rows: Rows, deadline: float) -> list[Outcome]:
    """Every provider on every kind of file, while there is time."""
    outcomes = []
    for precision in PRECISIONS:
        for name in (*PROVIDERS, "engine"):
            if time.monotonic() > deadline:
                print(f"no time left: {name} {precision} and what follows is not checked")
                return outcomes
            if name == "engine":
                outcome = try_engine(exports, precision)
            else:
                outcome = try_provider(exports, name, precision, rows)
            print(f"{outcome.what}: {outcome.ending}", flush=True)
            outcomes.append(outcome)
    return outcomes


def rehearse() -> None:
    """Let everything run on the CPU, small."""
    changes: dict[str, object] = {
        "PROVIDERS": ("cpu", *PROVIDERS), "PRECISIONS": ("fp32",), "BATCHES": (1, 3), "ROUNDS": 2,
        "make_regressor": make_tiny,
    }  # fmt: skip
    for name, value in changes.items():
        setattr(sys.modules[__name__], name, value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check for so many seconds; 0 if nothing failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--csv", type=Path, default=ROOT / "build" / "gpu" / "gpu_deploy.csv")
    parser.add_argument("--time", type=float, default=60, metavar="SECONDS", help="for so long")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, small")
    options = parser.parse_args(arguments)
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        print(f"left out: {', '.join(missing)} not installed, which an export needs")
        return 0
    device = "rehearsal"
    if options.rehearse:
        rehearse()
    else:
        import torch

        if torch.cuda.is_available():
            device = torch.cuda.get_device_name()
        elif is_required():
            print("gpu_deploy: torch sees no GPU; check the driver with nvidia-smi")
            return 2
    deadline = time.monotonic() + options.time
    rows = Rows(options.csv, device)
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = check_all(Exports(Path(scratch)), rows, deadline)
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
