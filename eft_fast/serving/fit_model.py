"""The file that fits, in ONNX Runtime on the CPU: crops and keypoints in, fitted bodies out.

OpenVINO opens it, and answers wrong (2026.4); on CUDA its loops would wait for the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eft_fast.serving.base import one_line
from eft_fast.serving.card import INPUT_NAME
from eft_fast.serving.cpus import usable_cpus
from eft_fast.serving.fit_card import (
    FIT_MODEL_NAME,
    INPUTS,
    METADATA,
    FitCard,
    load_fit_card,
)
from eft_fast.serving.onnx_session import open_runtime

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, UInt8


class FitModel:
    """An exported model that fits.

    Args:
        folder: What ``eft-fast export --fit`` wrote.
        threads: Threads; default: the processors that this program may use.

    Raises:
        FileNotFoundError: If the folder has no such file.
        ValueError: If it is damaged, or not the file of its card.
        ImportError: If ONNX Runtime is not installed.

    Example:
        >>> model = FitModel("exported")
        >>> fits = model.run(crops, keypoints, sigma)
        >>> fits["joint_sigma_mm"].shape
        (1, 24)
    """

    def __init__(self, folder: str | Path, *, threads: int | None = None) -> None:
        folder = Path(folder).expanduser()
        self.card = load_fit_card(folder)
        path = folder / FIT_MODEL_NAME
        if not path.is_file():
            raise FileNotFoundError(f"serving: no {FIT_MODEL_NAME} in {folder}; export with --fit")
        count = threads or usable_cpus()
        self._call, outputs = _open(path, self.card, count)
        if outputs != list(self.card.outputs):
            raise ValueError(f"serving: {path} is not the file of its card; export it again")

    def run(
        self,
        images: UInt8[np.ndarray, "B S S 3"],
        keypoints: Float[np.ndarray, "B K 3"],
        sigma: Float[np.ndarray, "B K"],
        pinhole: Float[np.ndarray, "B 4"] | None = None,
    ) -> dict[str, Float32[np.ndarray, "B ..."]]:
        """Fit people; in a batch of any size, though more than 8 at once gain nothing.

        Args:
            images: RGB crops.
            keypoints: Of the card's joint set: x and y in [-1, 1] of the crop, and confidence; 0 or
                NaN leaves one out.
            sigma: Standard deviation of each in units of the person's extent
                (``map_fit.config.MapConfig.sigma``); 0 leaves it out.
            pinhole: (f_x, f_y, c_x, c_y) of each photo as seen in the crop; None, or a row of 0:
                that which sees the person from the card's ``distance``.

        Returns:
            The outputs of the card by name; the answer of the network where no keypoint counts.

        Raises:
            TypeError: If the pixels are not 8-bit.
            ValueError: If a shape is not as above.
            RuntimeError: If the runtime fails.
        """
        card = self.card
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            kind = getattr(images, "dtype", type(images).__name__)
            raise TypeError(f"FitModel: crops must be a uint8 array, got {kind}")
        people, count = len(images), len(card.keypoint_names)
        given: dict[str, np.ndarray] = {
            "keypoints": np.asarray(keypoints),
            "sigma": np.asarray(sigma),
            "pinhole": np.zeros((people, 4)) if pinhole is None else np.asarray(pinhole),
        }
        shapes: Mapping[str, tuple[int, ...]] = {
            INPUT_NAME: (people, card.input_size, card.input_size, 3),
            "keypoints": (people, count, 3),
            "sigma": (people, count),
            "pinhole": (people, 4),
        }
        for name, shape in shapes.items():
            got = images.shape if name == INPUT_NAME else given[name].shape
            if got != shape:
                raise ValueError(f"FitModel: {name} must be {list(shape)}, got {list(got)}")
        if not people:
            shapes = {name: tuple(shape) for name, shape in card.outputs.items()}
            return {name: np.zeros((0, *shape), np.float32) for name, shape in shapes.items()}
        feed = {name: np.ascontiguousarray(given[name], np.float32) for name in INPUTS}
        outputs = self._call({INPUT_NAME: np.ascontiguousarray(images)} | feed)
        return dict(zip(card.outputs, outputs, strict=True))


def _open(path: Path, card: FitCard, threads: int) -> tuple[Any, list[str]]:
    session = open_runtime(path, {"cpu": {}}, threads)
    text = session.get_modelmeta().custom_metadata_map.get(METADATA, "{}")
    if FitCard.from_text(text, f"serving: {path}") != card:
        raise ValueError(f"serving: {path} is not the file of its card; export it again")

    def call(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return list(session.run(None, feed))
        except Exception as error:  # The runtime has a dozen kinds, none of them public.
            raise RuntimeError(f"serving: ONNX Runtime failed ({one_line(error)})") from error

    return call, [item.name for item in session.get_outputs()]
