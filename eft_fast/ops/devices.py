"""Devices by name, and one sentence where torch cannot use one."""

from __future__ import annotations

import torch


def find_device(who: str, device: str | torch.device | None) -> torch.device | None:
    """The device of that name, after a look at whether torch can use it here.

    Args:
        who: The call that was given the device, for the message.
        device: Name or device; None: no wish, passed through.

    Raises:
        ValueError: If torch knows no such device, or it is neither a CPU nor a CUDA GPU.
        RuntimeError: If it is a GPU that torch cannot use on this machine.
    """
    if device is None:
        return None
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(
            f"{who}: device must be a name such as cpu, cuda or cuda:1, got {device!r}"
        ) from None
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"{who}: device must be cpu or cuda, got {str(found)!r}")
    if found.type == "cpu":
        return found
    if torch.version.cuda is None:
        raise RuntimeError(
            f"{who}: device {found} was asked for, but torch {torch.__version__} was built without "
            "CUDA; install a CUDA build of torch, or use cpu"
        )
    count = torch.cuda.device_count()
    if (found.index or 0) >= count:
        raise RuntimeError(
            f"{who}: device {found} was asked for, but torch sees {count} GPUs; see eft-fast doctor"
        )
    return found
