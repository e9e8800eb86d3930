"""The exported detector at work: people and their keypoints in photos, by ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eft_fast.imaging import load_image
from eft_fast.models.keypoint_noise import KeypointNoise
from eft_fast.person_search import Detection, SearchNetworks, search_people
from eft_fast.serving.cpus import usable_cpus
from eft_fast.serving.detector_card import (
    BOXES_NAME,
    DETECTOR_FOLDER,
    KEYPOINTS_NAME,
    OUTPUT_NAMES,
    DetectorCard,
    load_detector_card,
)
from eft_fast.serving.onnx_session import open_runtime, run_runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float64, Int, UInt8

    from eft_fast.imaging.load import ImageSource

#: Crops at once: one on the CPU, see ``person_keypoints``.
_CROPS_AT_ONCE = {"cpu": 1, "cuda": 16}


@dataclass(frozen=True, eq=False)
class FoundPeople:
    """N people in photos, as ``Predictor`` and ``Predictor.fit`` take them.

    Attributes:
        photos: The photo of each, as it was given.
        photo_index: Its place among the given photos.
        boxes: x, y, width, height in photo pixels.
        keypoints: x, y in photo pixels and score; zeros where there is none. In COCO's order.
        score: Probability that the box holds a person.
        message: Of each photo given: why it could not be read, or empty.
        noise: How far off the keypoints are by their scores, for ``MapConfig.keypoint_noise``.
    """

    photos: list[ImageSource] = field(repr=False)
    photo_index: Int[np.ndarray, " N"]
    boxes: Float64[np.ndarray, "N 4"]
    keypoints: Float64[np.ndarray, "N 17 3"]
    score: Float64[np.ndarray, " N"]
    message: tuple[str, ...]
    noise: KeypointNoise = field(repr=False)

    def __len__(self) -> int:
        return len(self.boxes)


class PersonFinder:
    """The detector of an exported folder.

    Args:
        folder: What ``eft-fast export --detector`` wrote.
        provider: ``cpu``, ``cuda``, or ``auto``: CUDA if it really runs, else the CPU.
        threads: Threads on the CPU; default: the processors that this program may use.

    Raises:
        FileNotFoundError: If the folder has no detector.
        ValueError: If a file is damaged, or belongs to another detector.
        ImportError: If ONNX Runtime is not installed.
        RuntimeError: If the provider does not run here.

    Example:
        >>> finder = PersonFinder("exported")
        >>> finder.find(load_image("street.jpg"))[0].keypoints.shape
        (17, 3)
    """

    def __init__(
        self, folder: str | Path, *, provider: str = "auto", threads: int | None = None
    ) -> None:
        if provider not in ("auto", *_CROPS_AT_ONCE):
            raise ValueError(
                f"PersonFinder: provider must be one of {['auto', *_CROPS_AT_ONCE]}, got "
                f"{provider!r}"
            )
        place = Path(folder).expanduser() / DETECTOR_FOLDER
        self.card = load_detector_card(place)
        self.provider, self._boxes = _open_best(place / BOXES_NAME, self.card, provider, threads)
        keypoints = place / KEYPOINTS_NAME
        self._keypoints = _open_best(keypoints, self.card, self.provider, threads)[1]
        self._networks = SearchNetworks(
            boxes=lambda picture: run_runtime(self._boxes, picture)[0],
            keypoints=lambda crops: run_runtime(self._keypoints, crops)[0],
            size=self.card.crop_size,
            smaller=self.card.smaller_crops,
            batch=_CROPS_AT_ONCE[self.provider],
            crop_factor=self.card.crop_factor,
        )

    def run(self, name: str, images: UInt8[np.ndarray, "B H W 3"]) -> np.ndarray:
        """The answer of one of the networks, named by its file."""
        session = self._boxes if name == BOXES_NAME else self._keypoints
        answer: np.ndarray = run_runtime(session, np.ascontiguousarray(images))[0]
        return answer

    def find(self, image: UInt8[np.ndarray, "H W 3"]) -> list[Detection]:
        """Find the people in a photo, the surest first, as ``models.detect_people`` does.

        Args:
            image: RGB photo, as ``imaging.load_image`` returns it.

        Raises:
            TypeError: If the image is not an 8-bit array.
            ValueError: If it is not RGB, or over 15,000 pixels wide or high.
            RuntimeError: If the runtime fails.
        """
        return search_people(image, self._networks, self.card.joint_set, who="PersonFinder.find")

    def find_all(self, photos: Sequence[ImageSource]) -> FoundPeople:
        """Find the people in each of several photos; one that cannot be read has nobody."""
        found: list[tuple[int, Detection]] = []
        messages = []
        for index, photo in enumerate(photos):
            try:
                found += [(index, person) for person in self.find(load_image(photo))]
            except (OSError, ValueError, TypeError) as error:
                messages.append(str(error))
            else:
                messages.append("")
        people = [person for _, person in found]
        return FoundPeople(
            photos=[photos[index] for index, _ in found],
            photo_index=np.array([index for index, _ in found], np.int64),
            boxes=np.array([person.box for person in people], np.float64).reshape(-1, 4),
            keypoints=np.array([p.keypoints for p in people], np.float64).reshape(-1, 17, 3),
            score=np.array([person.score for person in people], np.float64),
            message=tuple(messages),
            noise=self.card.noise,
        )


def _open_best(
    path: Path, card: DetectorCard, provider: str, threads: int | None
) -> tuple[str, Any]:
    """The provider that runs, and the session."""
    if provider == "auto":
        try:
            return "cuda", _open(path, card, "cuda", threads)
        except RuntimeError:
            provider = "cpu"
    return provider, _open(path, card, provider, threads)


def _open(path: Path, card: DetectorCard, provider: str, threads: int | None) -> Any:
    """Open one of the networks and check that it belongs to the card."""
    if not path.is_file():
        raise ValueError(f"serving: no {path.name} in {path.parent}; export again with --detector")
    # TF32 rounds to 10 bits, which the tolerances do not allow.
    options = {"use_tf32": "0"} if provider == "cuda" else {}
    session = open_runtime(path, {provider: options}, threads or usable_cpus())
    text = session.get_modelmeta().custom_metadata_map.get("detector", "{}")
    inside = DetectorCard.from_text(text, f"serving: {path}")
    outputs = [item.name for item in session.get_outputs()]
    if inside.weights_sha256 != card.weights_sha256 or outputs != [OUTPUT_NAMES[path.name]]:
        raise ValueError(
            f"serving: {path} is not the network of its card; export again with --detector"
        )
    return session
