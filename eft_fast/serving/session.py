"""One exported model in one runtime, on the device that was asked for or not at all."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eft_fast.serving.card import INPUT_NAME, ModelCard, find_model, load_card

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

#: What may be asked for. ``auto``: CUDA if it really runs, else the CPU.
PROVIDERS: Final = ("auto", "cpu", "cuda", "tensorrt", "openvino")
_ORT_NAMES: Final = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class Session(ABC):
    """An opened model.

    Attributes:
        card: What the model says of itself.
        provider: What really runs it: ``cpu``, ``cuda``, ``tensorrt`` or ``openvino``.
    """

    card: ModelCard
    provider: str

    def run(self, images: UInt8[np.ndarray, "B S S 3"]) -> dict[str, Float32[np.ndarray, "B ..."]]:
        """Run a batch of crops.

        Raises:
            TypeError: If the pixels are not 8-bit.
            ValueError: If the shape is not that of the model's crops.
            RuntimeError: If the runtime fails.
        """
        size = self.card.input_size
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            kind = getattr(images, "dtype", type(images).__name__)
            raise TypeError(f"serving: crops must be a uint8 array, got {kind}")
        if images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"serving: crops must be [B, {size}, {size}, 3], got {list(images.shape)}"
            )
        if len(images) == 0:
            shapes = self.card.outputs.items()
            return {name: np.zeros((0, *shape), np.float32) for name, shape in shapes}
        outputs = self._run(np.ascontiguousarray(images))
        return dict(zip(self.card.outputs, outputs, strict=True))

    def check_outputs(self, names: Sequence[str]) -> None:
        """Raise ValueError unless the model has the outputs of its card, in that order."""
        if list(names) != list(self.card.outputs):
            raise ValueError(
                f"serving: the model must have the outputs {list(self.card.outputs)}, "
                f"got {list(names)}; export it again"
            )

    @abstractmethod
    def _run(self, images: np.ndarray) -> list[np.ndarray]: ...


class OnnxSession(Session):
    """ONNX Runtime. It falls back to the CPU in silence; this class raises instead."""

    def __init__(self, path: Path, provider: str, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ImportError(
                "serving: ONNX Runtime is not installed; pip install 'eft-fast[onnx]'"
            ) from None
        wanted = _ORT_NAMES[provider]
        available = onnxruntime.get_available_providers()
        if wanted not in available:
            raise RuntimeError(
                f"serving: provider {provider} was asked for, but this ONNX Runtime has only "
                f"{_short_names(available)}; install 'eft-fast[onnx-gpu]' in place of [onnx], or "
                "ask for cpu"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Warnings on a missing GPU would repeat what the exception says.
        options.log_severity_level = 4
        # Threads that spin while they wait take the processors of whoever shares the machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        chain: list[Any] = [(wanted, _provider_options(provider, path))]
        if provider == "tensorrt":
            chain.append((_ORT_NAMES["cuda"], _provider_options("cuda", path)))
        if provider != "cpu":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            onnxruntime.preload_dlls() if hasattr(onnxruntime, "preload_dlls") else None
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=chain)
        except Exception as error:  # The runtime has a dozen kinds, none of them public.
            raise _opening_error(path, provider, error) from error
        used = self._session.get_providers()
        if not used or used[0] != wanted:
            raise RuntimeError(
                f"serving: provider {provider} was asked for, but the model would run on "
                f"{_short_names(used)}; check driver and CUDA libraries, or ask for cpu"
            )
        self.provider = provider
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.card = ModelCard.from_strings(metadata, f"serving: {path}")
        self.check_outputs([item.name for item in self._session.get_outputs()])
        self._check_input(path)

    def _check_input(self, path: Path) -> None:
        size, (found, *others) = self.card.input_size, self._session.get_inputs()
        if (
            others
            or found.name != INPUT_NAME
            or found.type != "tensor(uint8)"
            or (found.shape[1:] != [size, size, 3] or isinstance(found.shape[0], int))
        ):
            raise ValueError(
                f"serving: {path} must take {INPUT_NAME} uint8 [batch, {size}, {size}, 3], got "
                f"{found.name} {found.type} {found.shape}; export it again"
            )

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        try:
            return list(self._session.run(None, {INPUT_NAME: images}))
        except Exception as error:
            raise RuntimeError(f"serving: ONNX Runtime failed ({_one_line(error)})") from error


class OpenVinoSession(Session):
    """OpenVINO on the CPU.

    Args:
        path: ``.xml`` or ``.onnx``.
        card: Of the model.
        threads: Number of threads.
        precision: ``fp32``, or ``bf16`` where the processor has it; anything else raises.
    """

    def __init__(self, path: Path, card: ModelCard, threads: int, precision: str = "fp32") -> None:
        try:
            import openvino
        except ImportError:
            raise ImportError(
                "serving: OpenVINO is not installed; pip install 'eft-fast[openvino]'"
            ) from None
        kinds = {"fp32": "f32", "bf16": "bf16"}
        if precision not in kinds:
            raise ValueError(f"serving: OpenVINO precision must be fp32 or bf16, got {precision!r}")
        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        ):
            raise RuntimeError(
                "serving: bf16 was asked for, but OpenVINO finds none in this processor; ask for "
                "fp32"
            )
        config = {"INFERENCE_PRECISION_HINT": kinds[precision], "INFERENCE_NUM_THREADS": threads}
        try:
            self._model = core.compile_model(str(path), "CPU", config)
        except RuntimeError as error:
            raise _opening_error(path, "openvino", error) from error
        self.card, self.provider, self.precision = card, "openvino", precision
        self.check_outputs([item.get_any_name() for item in self._model.outputs])

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        try:
            result = self._model([images])
        except RuntimeError as error:
            raise RuntimeError(f"serving: OpenVINO failed ({_one_line(error)})") from error
        return [np.array(result[index], np.float32) for index in range(len(self.card.outputs))]


def open_session(
    model: str | Path,
    *,
    provider: str = "auto",
    threads: int | None = None,
    precision: str | None = None,
) -> Session:
    """Open an exported model.

    Args:
        model: Exported folder, or the model file in it.
        provider: ``auto``, ``cpu``, ``cuda``, ``tensorrt`` or ``openvino``. A named one runs or
            raises; ``auto`` takes CUDA where it really runs, else the CPU.
        threads: Threads on the CPU; default: the processors that this program may use.
        precision: Of OpenVINO only: ``fp32`` (default) or ``bf16``.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If the file is damaged or was not exported by eft_fast, or the provider unknown.
        ImportError: If the runtime is not installed.
        RuntimeError: If the provider does not run here.
    """
    if provider not in PROVIDERS:
        raise ValueError(f"serving: provider must be one of {list(PROVIDERS)}, got {provider!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"serving: threads must be 1 or more, got {threads}")
    path, kind = find_model(model)
    if path.stat().st_size == 0:
        raise ValueError(f"serving: {path} is empty (0 bytes); export it again")
    count = threads or usable_cpus()
    if provider == "openvino" or (kind == "openvino" and provider in ("auto", "cpu")):
        return OpenVinoSession(path, load_card(path), count, precision or "fp32")
    if precision is not None:
        raise ValueError(
            "serving: precision can be chosen for OpenVINO only; otherwise it lies in the file, "
            "see eft-fast export --precision"
        )
    if kind == "openvino":
        raise ValueError(f"serving: {path} runs in OpenVINO only, got provider {provider}")
    if provider != "auto":
        return OnnxSession(path, provider, count)
    return _open_best(path, count)


def _open_best(path: Path, threads: int) -> Session:
    try:
        return OnnxSession(path, "cuda", threads)
    except RuntimeError:
        return OnnxSession(path, "cpu", threads)


def _provider_options(provider: str, path: Path) -> dict[str, str]:
    if provider == "cuda":
        return {
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
            # TF32 rounds to 10 bits, which the tolerances of a single precision file do not allow.
            "use_tf32": "0",
        }
    if provider == "tensorrt":
        cache = str(path.parent / "tensorrt_cache")
        return {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": cache,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": cache,
        }
    return {}


def _opening_error(path: Path, provider: str, error: Exception) -> Exception:
    """What went wrong while a model was opened: the device, or the file."""
    text = _one_line(error)
    if provider not in ("cpu", "openvino"):
        return RuntimeError(
            f"serving: provider {provider} was asked for, but cannot run here ({text}); check "
            "driver and CUDA libraries, or ask for cpu"
        )
    return ValueError(f"serving: {path} is damaged or not a model ({text}); export it again")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def _short_names(providers: Sequence[str]) -> str:
    return ", ".join(name.removesuffix("ExecutionProvider") for name in providers) or "nothing"


def usable_cpus(read: Callable[[str], str | None] | None = None) -> int:
    """Processors that this program may use: affinity, and the quota of its container.

    Args:
        read: Reads a file of the system, or gives None; for tests.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = _cpu_quota(read or _read_system_file)
    return max(1, count if quota is None else min(count, math.ceil(quota)))


def _cpu_quota(read: Callable[[str], str | None]) -> float | None:
    """Processors that the control group grants; None without a limit."""
    second = read("/sys/fs/cgroup/cpu.max")
    if second is not None:
        limit, _, period = second.partition(" ")
    else:
        limit = read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") or ""
        period = read("/sys/fs/cgroup/cpu/cpu.cfs_period_us") or ""
    try:
        quota = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return quota if quota > 0 else None


def _read_system_file(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
