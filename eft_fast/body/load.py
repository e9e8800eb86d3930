"""Load a body in one call."""

from __future__ import annotations

import os
from typing import Any

import numpy.typing as npt
import torch

from eft_fast.body.joints import check_owner, read_regressor
from eft_fast.body.model_io import load_arrays
from eft_fast.body.normalise import with_template
from eft_fast.body.smpl import Smpl
from eft_fast.keypoints import LANDMARKS
from eft_fast.ops import find_device
from eft_fast.ops.ambient import plain_torch


def load_body(
    source: Any = "open",
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    extra_regressor: npt.ArrayLike | str | os.PathLike[str] | None = None,
    extra_regressor_id: str | None = None,
    v_template: npt.ArrayLike | None = None,
) -> Smpl:
    """Load a body model.

    Args:
        source: ``"open"`` for the body that ships with the package; the path of an SMPL .pkl or
            .npz, also looked for in the folder of the environment variable EFT_FAST_MODELS; or a
            ``smplx.SMPL`` object.
        device: Where to put it; default: the CPU.
        dtype: float32 or float64.
        extra_regressor: ``J_regressor_extra.npy`` of SPIN and EFT, as a path or an array [9, V]:
            the landmarks of the 49 keypoints. Without it an SMPL body uses approximate ones.
        extra_regressor_id: Body that the regressor was made for, if not SMPL.
        v_template: Rest shape [V, 3] in metres in place of the model's, as smplx takes it: of a
            scan, for example. The body gets an id of its own.

    Returns:
        The body; ``body.id`` says which.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If ``source`` is of no known kind.
        ValueError: If the file is damaged or no body, asks to run something, or if the regressor
            belongs to another body.
        RuntimeError: If ``device`` is a GPU that torch cannot use here.

    Example:
        >>> body = load_body()
        >>> body.id
        'open-1'
    """
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"load_body: dtype must be torch.float32 or torch.float64, got {dtype}")
    device = find_device("load_body", device)
    arrays = load_arrays(source)
    if v_template is not None:
        arrays = with_template(arrays, v_template)
    landmarks = None
    if extra_regressor is not None:
        check_owner(arrays, extra_regressor_id, "J_regressor_extra")
        landmarks = read_regressor(arrays, extra_regressor, rows=len(LANDMARKS))
    # A body that is loaded under the caller's inference_mode could never be fitted with.
    with plain_torch():
        return Smpl(arrays, landmarks=landmarks, dtype=dtype).to(device=device)
