"""Open an exported model in the runtime and on the device that were asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from eft_fast.serving.base import Session
from eft_fast.serving.card import ModelFiles, check_files, find_model
from eft_fast.serving.cpus import usable_cpus
from eft_fast.serving.onnx_session import OnnxSession
from eft_fast.serving.openvino_session import OpenVinoSession

#: What may be asked for. ``auto``: CUDA if it really runs, else the CPU.
PROVIDERS: Final = ("auto", "cpu", "cuda", "tensorrt", "openvino")


def open_session(
    model: str | Path,
    *,
    provider: str = "auto",
    threads: int | None = None,
    precision: str | None = None,
    gated: bool = True,
    check_hashes: bool = True,
) -> Session:
    """Open an exported model.

    Args:
        model: Exported folder, or the model file in it.
        provider: ``auto``, ``cpu``, ``cuda``, ``tensorrt`` or ``openvino``. A named one runs or
            raises; ``auto`` takes CUDA where it really runs, else the CPU.
        threads: Threads on the CPU; default: the processors that this program may use.
        precision: Of OpenVINO only: ``fp32`` or ``bf16``; default: the export's own.
        gated: Whether ``bf16`` is for exports alone that were measured with it.
        check_hashes: Whether the files must be those that were exported; ``verify`` says itself
            which are not.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If a file is damaged, is not the one that was exported, or was not exported by
            eft_fast, or the provider is unknown.
        ImportError: If the runtime is not installed.
        RuntimeError: If the provider does not run here.
    """
    if provider not in PROVIDERS:
        raise ValueError(f"serving: provider must be one of {list(PROVIDERS)}, got {provider!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"serving: threads must be 1 or more, got {threads}")
    files = find_model(model)
    if files.path.stat().st_size == 0:
        raise ValueError(f"serving: {files.path} is empty (0 bytes); export it again")
    if check_hashes:
        check_files(files)
    count = threads or usable_cpus()
    if provider == "openvino" or (files.kind == "openvino" and provider in ("auto", "cpu")):
        return OpenVinoSession(files, count, precision, gated=gated)
    if precision is not None:
        raise ValueError(
            "serving: precision can be chosen for OpenVINO only; otherwise it lies in the file, "
            "see eft-fast export --precision"
        )
    if files.kind == "openvino":
        raise ValueError(f"serving: {files.path} runs in OpenVINO only, got provider {provider}")
    if provider != "auto":
        return OnnxSession(files, provider, count)
    return _open_best(files, count)


def _open_best(files: ModelFiles, threads: int) -> Session:
    try:
        return OnnxSession(files, "cuda", threads)
    except RuntimeError:
        return OnnxSession(files, "cpu", threads)
