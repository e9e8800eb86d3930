"""Regressors by name or file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from eft_fast.models.base import Regressor
from eft_fast.models.checkpoint import load_hmr
from eft_fast.models.movenet_file import FORMAT as MOVENET_FORMAT
from eft_fast.models.movenet_file import (
    OPEN2_LITE_REGRESSOR_PATH,
    OPEN2_REGRESSOR_PATH,
    load_movenet_regressor,
)
from eft_fast.models.open_file import OPEN_REGRESSOR_PATH, load_open_regressor, read_card
from eft_fast.ops import find_device
from eft_fast.ops.ambient import plain_torch

#: Weights that ship with the package, by ``Regressor.id``.
OPEN_REGRESSORS: Final[Mapping[str, Path]] = {
    "open-1": OPEN_REGRESSOR_PATH,
    "open-2": OPEN2_REGRESSOR_PATH,
    "open-2-lite": OPEN2_LITE_REGRESSOR_PATH,
}
#: The same by what ``load_regressor`` takes.
_SHIPPED: Final[Mapping[str, Path]] = {"open": OPEN_REGRESSOR_PATH, **OPEN_REGRESSORS}


def load_regressor(
    source: str | Path = "open", *, device: str | torch.device | None = None
) -> Regressor:
    """Load a regressor, ready to predict.

    Args:
        source: ``"open"``: the regressor that fits start from by default, ``open-1``;
            ``"open-1"``, ``"open-2"``, ``"open-2-lite"``: those that ship, by their ids. A path to
            a ``.npz``: weights of an open regressor. Any other path: a SPIN or EFT checkpoint; its
            camera is taken as ``shift_scale`` and converted (``models.checkpoint.load_hmr`` has the
            options).
        device: Where to put it; default: the CPU.

    Returns:
        The network in evaluation mode.

    Raises:
        TypeError: If ``source`` is neither text nor a path.
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, unsafe or does not hold such a network.
        RuntimeError: If ``device`` is a GPU that torch cannot use here.

    Example:
        >>> regressor = load_regressor("model_checkpoint.pt")
        >>> regressor.camera_convention
        'scale_shift'
    """
    if not isinstance(source, (str, Path)):
        raise TypeError(
            f"load_regressor: source must be 'open' or a path, got {type(source).__name__}"
        )
    device = find_device("load_regressor", device)
    # Weights made under the caller's inference_mode or default type could not be fine-tuned.
    with plain_torch(), torch.no_grad():
        path = find_weights(source)
        regressor = _load_npz(path) if path.suffix == ".npz" else load_hmr(path)
        return regressor if device is None else regressor.to(device)


def find_weights(source: str | Path) -> Path:
    """The file of a regressor's weights; ``source`` is as of ``load_regressor``."""
    return _SHIPPED.get(str(source)) or Path(source)


def _load_npz(path: Path) -> Regressor:
    """Weights of an open regressor, of whichever kind the file says."""
    # What is known is not asked: the card comes with all the weights.
    if path != OPEN_REGRESSOR_PATH and read_card(path).get("format") == MOVENET_FORMAT:
        return load_movenet_regressor(path)
    return load_open_regressor(path)
