"""Time the same network in several runtimes, in turns, and how far their answers are apart."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import UInt8

from eft_fast.deploy.graph import ExportGraph
from eft_fast.deploy.quantise import quantise_file
from eft_fast.deploy.verify import difference
from eft_fast.models.base import Regressor
from eft_fast.serving.base import one_line
from eft_fast.serving.card import ModelCard, load_card
from eft_fast.serving.session import open_session

Outputs = dict[str, np.ndarray]
#: What is compared with the others.
OURS: Final = "onnxruntime"
ENGINES: Final = (
    OURS, "torch_eager", "torch_compile", "openvino", "openvino_bf16", "onnxruntime_int8",
    "openvino_int8",
)  # fmt: skip


@dataclass
class Engines:
    """Runtimes that can be timed here.

    Attributes:
        run: Name -> crops to outputs.
        provider: What really runs each.
        left_out: Name -> why it cannot be timed.
    """

    run: dict[str, Callable[[np.ndarray], Outputs]] = field(default_factory=dict)
    provider: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def open_engines(
    regressor: Regressor,
    folder: Path,
    crops: UInt8[np.ndarray, "N S S 3"],
    scratch: Path,
    *,
    names: tuple[str, ...] = ENGINES,
    threads: int,
) -> Engines:
    """Open every runtime that is installed.

    Args:
        regressor: The network.
        folder: Its fp32 ONNX export.
        crops: Calibration of int8; also tries each engine once.
        scratch: Folder for the int8 file.
        names: Which of ``ENGINES``.
        threads: Threads of each; torch keeps the number afterwards.
    """
    torch.set_num_threads(threads)
    card, engines = load_card(folder), Engines()
    for name in names:
        try:
            run, provider = _open(name, regressor, folder, card, crops, scratch, threads)
            run(crops[:2])
        except Exception as error:  # Compilers and runtimes fail in their own ways: say so, go on.
            engines.left_out[name] = one_line(error)
        else:
            engines.run[name], engines.provider[name] = run, provider
    return engines


def _open(
    name: str,
    regressor: Regressor,
    folder: Path,
    card: ModelCard,
    crops: np.ndarray,
    scratch: Path,
    threads: int,
) -> tuple[Callable[[np.ndarray], Outputs], str]:
    runtime, _, kind = name.partition("_")
    if runtime == "torch":
        graph: Any = ExportGraph(regressor).eval()
        return _torch_runner(torch.compile(graph) if kind == "compile" else graph, card), "torch"
    if kind == "int8":
        path = scratch / "model.onnx"
        if not path.is_file():
            quantise_file(folder / "model.onnx", path, regressor, card, crops)
            (scratch / "export.json").write_text(card.to_json(), encoding="utf-8")
        folder = scratch
    provider = "openvino" if runtime == "openvino" else "cpu"
    precision = "bf16" if kind == "bf16" else None
    session = open_session(
        folder, provider=provider, threads=threads, precision=precision, gated=False
    )
    return session.run, session.provider


def _torch_runner(graph: Any, card: ModelCard) -> Callable[[np.ndarray], Outputs]:
    def run(images: np.ndarray) -> Outputs:
        with torch.inference_mode():
            values = graph(torch.from_numpy(images))
        return {name: value.numpy() for name, value in zip(card.outputs, values, strict=True)}

    return run


def interleave(
    jobs: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of one call of each job in each round; a first round warms up and is dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            start = clock()
            job()
            seconds[name].append(clock() - start)
    return {name: values[1:] for name, values in seconds.items()}


def compare_engines(
    engines: Engines,
    crops: UInt8[np.ndarray, "N S S 3"],
    batch: int,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[dict[str, Any]]:
    """Time one batch size; a row per peer, beside ONNX Runtime in fp32.

    Args:
        engines: What to time.
        crops: Fill the batches; differences are those on the crops, to eager torch.
        batch: Crops in a batch.
        rounds: Rounds that count.
        clock: Gives seconds; ``time.process_time`` on a shared machine, with one thread.
    """
    images = crops[np.arange(batch) % len(crops)]
    jobs = {name: (lambda run=run: run(images)) for name, run in engines.run.items()}
    seconds = {name: statistics.median(s) for name, s in interleave(jobs, rounds, clock).items()}
    reference = engines.run["torch_eager" if "torch_eager" in engines.run else OURS](crops)
    for peer in engines.run:
        if peer == OURS:
            continue
        yield {
            "case": "regressor",
            "size": batch,
            "peer": peer,
            "ours": OURS,
            "ours_ms": 1000 * seconds[OURS],
            "peer_ms": 1000 * seconds[peer],
            "ratio": seconds[peer] / seconds[OURS],
            "ours_images_per_second": batch / seconds[OURS],
            "peer_images_per_second": batch / seconds[peer],
            "ours_provider": engines.provider[OURS],
            "peer_provider": engines.provider[peer],
            "ours_max_difference": furthest(engines.run[OURS](crops), reference),
            "peer_max_difference": furthest(engines.run[peer](crops), reference),
        }


def furthest(got: Outputs, expected: Outputs) -> dict[str, float]:
    """Per output, the largest difference; ``rotmat`` in degrees."""
    return {name: float(difference(name, got[name], expected[name]).max()) for name in expected}
