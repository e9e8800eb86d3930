"""Read SPIN and EFT checkpoints into ``models.hmr.Hmr``.

Both projects save the same network; neither file says which camera convention its weights were
trained with. HMR, SPIN and the trainer of EFT use ``shift_scale`` unless EFT's trainer ran with its
weak-projection switch, so that is the default here.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from eft_fast import conventions
from eft_fast.archives import check_unpacked
from eft_fast.models.hmr import CheckpointInfo, Hmr
from eft_fast.models.weights import list_some, to_weights

_LOG = logging.getLogger(__name__)
#: Keys under which training programs store the state dict.
_STATE_KEYS: Final = ("model", "state_dict")
#: Batch norm counters: absent from old files, and of no use to a frozen batch norm.
_COUNTER: Final = ".num_batches_tracked"
#: Weights that tell where the network begins among the names of a file.
_LANDMARKS: Final = ("conv1.weight", "deccam.weight")
#: What torch.save writes is not compressed: an archive that grows when it is read is no checkpoint.
_MOST_GROWTH, _SLACK_BYTES = 2, 2**20


def load_hmr(
    path: str | Path,
    *,
    weights_camera: str = conventions.SHIFT_SCALE,
    stride_in_1x1: bool = False,
) -> Hmr:
    """Load a SPIN or EFT checkpoint, in evaluation mode.

    Only tensors and plain values are read from the file; a pickle that asks for anything else is
    refused and nothing of it runs.

    Args:
        path: ``.pt`` file: a state dict, or a dict that holds one under ``model`` or
            ``state_dict``. A prefix such as ``module.`` (DataParallel), ``_orig_mod.``
            (torch.compile), ``model.`` (Lightning) or ``hmr.`` is taken off.
        weights_camera: Convention of the raw camera. ``"shift_scale"`` for SPIN and for EFT's own
            trainer; ``"scale_shift"`` for weights trained with EFT's weak projection. The network
            returns ``scale_shift`` either way.
        stride_in_1x1: True for weights of a Caffe or Keras ResNet; no file of SPIN or EFT is one.

    Returns:
        The network; ``Hmr.checkpoint`` tells its origin.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty, damaged or unsafe, or its weights do not fit.
    """
    path = Path(path)
    network = Hmr(stride_in_1x1=stride_in_1x1, weights_camera=weights_camera)
    state = read_state(path)
    unexpected = _copy_state(network, state, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    network.id = f"hmr-{sha256[:12]}"
    network.checkpoint = CheckpointInfo(
        str(path), sha256, weights_camera, stride_in_1x1, unexpected
    )
    return network.eval()


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint, without prefixes and counters; see ``load_hmr``."""
    if not path.is_file():
        raise FileNotFoundError(f"load_regressor: no file {path}; check the path of the checkpoint")
    if path.stat().st_size == 0:
        raise ValueError(f"load_regressor: {path} is empty; fetch it again")
    content = _load_safely(path)
    if isinstance(content, Mapping):
        for key in _STATE_KEYS:
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping):
        raise ValueError(
            f"load_regressor: {path} must hold a state dict, got {type(content).__name__}"
        )
    tensors = {
        str(name): value
        for name, value in content.items()
        if isinstance(value, Tensor) and not str(name).endswith(_COUNTER)
    }
    if not tensors:
        keys = list_some(sorted(str(key) for key in content))
        raise ValueError(f"load_regressor: {path} must hold a state dict, got only {keys}")
    return _without_prefix(tensors, path)


def _without_prefix(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Names as the network has them: it may be one part of what a trainer saved."""
    first, last = _LANDMARKS
    starts = [name.removesuffix(first) for name in tensors if name.endswith(first)]
    prefixes = [start for start in starts if start + last in tensors and start[-1:] in ("", ".")]
    if len(prefixes) > 1:
        raise ValueError(
            f"load_regressor: {path} must hold one network, got {len(prefixes)} with the prefixes "
            f"{list_some([repr(prefix) for prefix in prefixes])}; save one of them alone"
        )
    prefix = prefixes[0] if prefixes else ""
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def _load_safely(path: Path) -> Any:
    """``torch.load`` of tensors and plain values; every failure becomes one sentence."""
    most = _MOST_GROWTH * path.stat().st_size + _SLACK_BYTES
    check_unpacked(path, most, "load_regressor")
    try:
        with torch.serialization.safe_globals(_harmless_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|global|class|function) ([\w.]+\.[\w.]+)", str(error))
        if wanted is None:
            raise ValueError(f"load_regressor: {path} is not a checkpoint, or damaged") from error
        if wanted[1].startswith("numpy."):
            raise ValueError(
                f"load_regressor: {path} must hold tensors, got numpy arrays; save them as "
                "torch.save({name: torch.from_numpy(array) for name, array in state.items()}, path)"
            ) from error
        raise ValueError(
            f"load_regressor: {path} asks for {wanted[1]}, which weights do not need; nothing of "
            "it was run; save its state dict alone where you trust it"
        ) from error
    except Exception as error:  # a damaged file can fail anywhere inside the reader
        raise ValueError(
            f"load_regressor: {path} is not a checkpoint, or damaged ({type(error).__name__}); "
            "fetch it again"
        ) from error


def _harmless_globals() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Constructors of numpy numbers, which training programs leave beside the weights."""
    number_types = [np.dtype(kind) for kind in ("f8", "f4", "i8", "i4", "bool")]
    scalar = np.float64(0).__reduce__()[0]
    assert callable(scalar)
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [np.dtype, *(type(kind) for kind in number_types), *((scalar, name) for name in names)]


def _copy_state(network: Hmr, state: dict[str, Tensor], path: Path) -> tuple[str, ...]:
    """Copy every weight; return the names that the network does not have."""
    own = {k: v for k, v in network.state_dict().items() if not k.endswith(_COUNTER)}
    missing = sorted(set(own) - set(state))
    unexpected = tuple(sorted(set(state) - set(own)))
    if missing:
        raise ValueError(
            f"load_regressor: {path} is not a SPIN or EFT checkpoint; "
            f"missing {list_some(missing)}, unexpected {list_some(unexpected)}"
        )
    for name, tensor in own.items():
        value = state[name]
        if value.shape != tensor.shape:
            raise ValueError(
                f"load_regressor: {path}: {name} must be {list(tensor.shape)}, "
                f"got {list(value.shape)}"
            )
        tensor.copy_(to_weights(value, name, f"load_regressor: {path}"))
    if unexpected:
        _LOG.warning("load_regressor: %s: left out unexpected %s", path, list_some(unexpected))
    return unexpected
