"""ONNX Runtime, on the device that was asked for or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.serving.base import Session, one_line
from eft_fast.serving.card import INPUT_NAME, ModelCard, ModelFiles, load_card

_NAMES: Final = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
#: Operators that do nearly all the work; shapes may be computed on the CPU, these may not.
_HEAVY: Final = {"Conv", "ConvInteger", "FusedConv", "Gemm", "MatMul", "QLinearConv"}


class OnnxSession(Session):
    """A model in ONNX Runtime.

    When a GPU cannot be used, ONNX Runtime says so in its log and takes the CPU; this class raises.

    Args:
        files: The model.
        provider: ``cpu``, ``cuda`` or ``tensorrt``.
        threads: Threads on the CPU.
    """

    def __init__(self, files: ModelFiles, provider: str, threads: int) -> None:
        options = _provider_options(provider, files)
        others = {"cuda": _provider_options("cuda", files)} if provider == "tensorrt" else {}
        self._session = open_runtime(files.path, {provider: options} | others, threads)
        self.provider = provider
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.card = ModelCard.from_strings(metadata, f"serving: {files.path}")
        self.check_outputs([item.name for item in self._session.get_outputs()])
        self._check_input(files.path)

    def _check_input(self, path: Path) -> None:
        size, inputs = self.card.input_size, self._session.get_inputs()
        found = [(item.name, item.type, item.shape) for item in inputs]
        fits = len(found) == 1 and found[0][:2] == (INPUT_NAME, "tensor(uint8)")
        shape = found[0][2] if fits else []
        if not fits or shape[1:] != [size, size, 3] or isinstance(shape[0], int):
            raise ValueError(
                f"serving: {path} must take {INPUT_NAME} uint8 [batch, {size}, {size}, 3], got "
                f"{found}; export it again"
            )

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        return run_runtime(self._session, images)


def open_runtime(path: Path, providers: Mapping[str, dict[str, str]], threads: int) -> Any:
    """Open a file on the first of the providers, or raise.

    Args:
        path: The ONNX file.
        providers: ``cpu``, ``cuda`` or ``tensorrt`` with its options; the others run what the first
            does not.
        threads: Threads on the CPU.

    Returns:
        The ``onnxruntime.InferenceSession``.

    Raises:
        ImportError: If ONNX Runtime is not installed.
        RuntimeError: If the provider does not run here, or not the heavy operators.
        ValueError: If the file is damaged.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ImportError(
            "serving: ONNX Runtime is not installed; pip install onnxruntime"
        ) from None
    provider = next(iter(providers))
    available = onnxruntime.get_available_providers()
    if _NAMES[provider] not in available:
        raise RuntimeError(
            f"serving: provider {provider} was asked for, but this ONNX Runtime has only "
            f"{_short_names(available)}; install onnxruntime-gpu in place of onnxruntime, or "
            "ask for cpu"
        )
    chain: list[Any] = [(_NAMES[name], options) for name, options in providers.items()]
    try:
        with _silence(onnxruntime):
            if provider != "cpu" and hasattr(onnxruntime, "preload_dlls"):
                onnxruntime.preload_dlls()
            session = onnxruntime.InferenceSession(
                str(path), _session_options(onnxruntime, threads), providers=chain
            )
    except Exception as error:  # The runtime has a dozen kinds, none of them public.
        raise _opening_error(path, provider, error) from error
    _check_provider(session, provider, onnxruntime)
    return session


def run_runtime(session: Any, images: np.ndarray) -> list[np.ndarray]:
    """The outputs of a session for pictures.

    Raises:
        RuntimeError: If the runtime fails.
    """
    try:
        return list(session.run(None, {INPUT_NAME: images}))
    except Exception as error:
        raise RuntimeError(f"serving: ONNX Runtime failed ({one_line(error)})") from error


def _check_provider(session: Any, provider: str, onnxruntime: Any) -> None:
    """Raise RuntimeError unless the provider is there and the heavy operators are its own."""
    used = session.get_providers()
    if not used or used[0] != _NAMES[provider]:
        raise RuntimeError(
            f"serving: provider {provider} was asked for, but the model would run on "
            f"{_short_names(used)} ({_why_not(onnxruntime, provider)}); mend that, or ask for "
            "cpu"
        )
    if provider == "cpu" or not hasattr(session, "get_provider_graph_assignment_info"):
        return
    parts = session.get_provider_graph_assignment_info()
    left = heavy_on_cpu(
        (part.ep_name, [node.op_type for node in part.get_nodes()]) for part in parts
    )
    if left:
        raise RuntimeError(
            f"serving: provider {provider} was asked for, but {', '.join(left)} of this model "
            "would run on the CPU; export it again for this provider, or ask for cpu"
        )


def heavy_on_cpu(parts: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """Kinds of heavy operators in the parts, each a provider and its operators, of the CPU."""
    found = {kind for name, kinds in parts if name == _NAMES["cpu"] for kind in kinds}
    return sorted(found & _HEAVY)


@contextlib.contextmanager
def _silence(onnxruntime: Any) -> Iterator[None]:
    """No words of ONNX Runtime on a missing GPU: what counts is checked, and said once."""
    onnxruntime.set_default_logger_severity(4)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        onnxruntime.set_default_logger_severity(2)


def _why_not(onnxruntime: Any, provider: str) -> str:
    """The library that a provider misses, which ONNX Runtime tells its log alone."""
    name = f"libonnxruntime_providers_{provider}.so"
    path = Path(onnxruntime.__file__).parent / "capi" / name
    try:
        # A second time: ONNX Runtime has tried before, so that nothing new is started here.
        ctypes.CDLL(str(path))
    except OSError as error:
        return one_line(error)
    return "no NVIDIA driver or no GPU was found"


def _session_options(onnxruntime: Any, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Warnings on a missing GPU would repeat what the exception says.
    options.log_severity_level = 4
    # Threads that spin while they wait take the processors of whoever shares the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _provider_options(provider: str, files: ModelFiles) -> dict[str, str]:
    if provider == "cuda":
        return {
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
            # TF32 rounds to 10 bits, which the tolerances of a single precision file do not allow.
            "use_tf32": "0",
        }
    if provider != "tensorrt":
        return {}
    card = load_card(files.folder)
    cache = _cache_folder(card)
    profile = f"{INPUT_NAME}:{{}}x{card.input_size}x{card.input_size}x3"
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": cache,
        "trt_engine_cache_prefix": card.weights_sha256[:12],
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": cache,
        # Without these, each new batch size builds the engine again, for minutes.
        "trt_profile_min_shapes": profile.format(1),
        "trt_profile_opt_shapes": profile.format(min(32, card.max_batch)),
        "trt_profile_max_shapes": profile.format(card.max_batch),
    }


def _cache_folder(card: ModelCard) -> str:
    """Engines are kept for the user, not beside the model, which may be read-only."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "eft_fast", "tensorrt", card.weights_sha256[:12])


def _opening_error(path: Path, provider: str, error: Exception) -> Exception:
    """What went wrong while a model was opened: the device, or the file."""
    text = one_line(error)
    if provider != "cpu":
        return RuntimeError(
            f"serving: provider {provider} was asked for, but cannot run here ({text}); check "
            "driver and CUDA libraries, or ask for cpu"
        )
    return ValueError(f"serving: {path} is damaged or not a model ({text}); export it again")


def _short_names(providers: Sequence[str]) -> str:
    return ", ".join(name.removesuffix("ExecutionProvider") for name in providers) or "nothing"
