"""What every runtime offers: crops in, arrays by name out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from eft_fast.serving.card import ModelCard

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8


class Session(ABC):
    """An opened model; several threads may run it at once.

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
    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        """One array per output of the card, in its order."""


def one_line(error: Exception) -> str:
    """The message of an error in a line of bearable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
