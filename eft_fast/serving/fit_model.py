"""The file that fits: crops and keypoints in, fitted bodies out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eft_fast.errors import unknown_name
from eft_fast.serving.card import INPUT_NAME, MODEL_NAMES
from eft_fast.serving.cpus import usable_cpus
from eft_fast.serving.fit_card import (
    FIT_MODEL_NAME,
    INPUTS,
    FitCard,
    load_fit_card,
)
from eft_fast.serving.fit_runtimes import FIT_RUNTIMES

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, UInt8


class FitModel:
    """An exported model that fits.

    Args:
        folder: What ``eft-fast export --fit`` wrote.
        threads: Threads; default: the processors that this program may use.
        runtime: ``onnxruntime`` or ``openvino``; ``auto``: OpenVINO where the export is of its
            format, else ONNX Runtime.

    Raises:
        FileNotFoundError: If the folder has no such file.
        ValueError: If it is damaged, or not the file of its card, or the runtime is unknown.
        ImportError: If the runtime is not installed.

    Example:
        >>> model = FitModel("exported")
        >>> fits = model.run(crops, keypoints, sigma)
        >>> fits["joint_sigma_mm"].shape
        (1, 24)
    """

    def __init__(
        self, folder: str | Path, *, threads: int | None = None, runtime: str = "auto"
    ) -> None:
        if runtime not in ("auto", *FIT_RUNTIMES):
            raise ValueError(unknown_name("FitModel", "runtime", runtime, ("auto", *FIT_RUNTIMES)))
        folder = Path(folder).expanduser()
        self.card = load_fit_card(folder)
        path = folder / FIT_MODEL_NAME
        if not path.is_file():
            raise FileNotFoundError(f"serving: no {FIT_MODEL_NAME} in {folder}; export with --fit")
        if runtime == "auto":
            is_openvino = (folder / MODEL_NAMES["openvino"]).is_file()
            runtime = "openvino" if is_openvino else "onnxruntime"
        self.runtime = runtime
        opened = FIT_RUNTIMES[runtime](path, threads or usable_cpus())
        found, names = FitCard.from_text(opened.metadata, f"serving: {path}"), self.card.outputs
        has_outputs = len(names) == len(opened.outputs) and all(
            name in known for name, known in zip(names, opened.outputs, strict=True)
        )
        if found != self.card or not has_outputs:
            raise ValueError(f"serving: {path} is not the file of its card; export it again")
        self._call = opened.call

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
