"""Photos and boxes to bodies: the same crop as in training, one model, any number of people."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eft_fast.conventions import BOX_UNIT
from eft_fast.files import save_npz
from eft_fast.imaging import Crop, crop_image, load_image
from eft_fast.keypoints import JointSet
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.map_fit.config import MapConfig
from eft_fast.person import PlacedPerson, place_person
from eft_fast.plausible import box_text, meets_photo
from eft_fast.sample import Sample
from eft_fast.serving.card import ModelCard, find_model
from eft_fast.serving.detector import FoundPeople, PersonFinder
from eft_fast.serving.fit_model import FitModel
from eft_fast.serving.fitting.asset import FitAsset, load_asset
from eft_fast.serving.fitting.engines import GraphSolver, NumpySolver
from eft_fast.serving.fitting.fit import checked_config
from eft_fast.serving.fitting.photos import fit_placed
from eft_fast.serving.fitting.record import PhotoFits
from eft_fast.serving.session import open_session

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, UInt8
    from numpy.typing import ArrayLike

    from eft_fast.imaging.load import ImageSource

#: What can fit.
ENGINES: Final = ("numpy", "graph")
#: Batches on a GPU are padded to these: each new size costs a search for the fastest kernels.
GPU_BUCKETS: Final = (1, 8, 32, 64, 128)


@dataclass(frozen=True, eq=False)
class PhotoPredictions:
    """Bodies of N people, in the order they were given.

    A person who could not be read has NaN everywhere and says why in ``message``.

    Attributes:
        rotmat: Rotation of each joint relative to its parent; joint 0 is the root, body to camera.
        betas: Shape coefficients of the model's body.
        cam: ``s, tx, ty``: u = s * X + t in [-1, 1] of the crop.
        bbox_center: Centre of each crop, photo pixels.
        bbox_scale: Side of each crop over 200 photo pixels.
        joints: Joints in metres, camera axes; None if the model does not compute them.
        joints_2d_px: The same joints in photo pixels.
        vertices: Mesh in metres; None if the model does not compute it.
        confidence: Probability that each kinematic joint lies within 100 mm of its true place, both
            about the pelvis; None if the network does not say.
        message: What was wrong with each person, or empty.
        card: The model.
    """

    rotmat: Float32[np.ndarray, "N 24 3 3"]
    betas: Float32[np.ndarray, "N 10"]
    cam: Float32[np.ndarray, "N 3"]
    bbox_center: Float64[np.ndarray, "N 2"]
    bbox_scale: Float64[np.ndarray, " N"]
    joints: Float32[np.ndarray, "N K 3"] | None
    joints_2d_px: Float32[np.ndarray, "N K 2"] | None
    vertices: Float32[np.ndarray, "N V 3"] | None
    message: tuple[str, ...]
    card: ModelCard = field(repr=False)
    confidence: Float32[np.ndarray, "N 24"] | None = None

    def __len__(self) -> int:
        return len(self.betas)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``.npz`` without pickles; names are those of the attributes."""
        names = "rotmat betas cam bbox_center bbox_scale joints joints_2d_px vertices".split()
        names.append("confidence")
        arrays: dict[str, Any] = {name: getattr(self, name) for name in names}
        arrays = {name: value for name, value in arrays.items() if value is not None}
        arrays["message"] = np.array(self.message, dtype=np.str_)
        arrays["card"] = np.array(self.card.to_json())
        if self.joints is not None:
            arrays["joint_names"] = np.array(self.card.joint_names)
        save_npz(path, arrays)


class Predictor:
    """An exported regressor: ``preprocess``, ``infer`` and ``postprocess``; a call joins them.

    Args:
        model: Folder that ``eft-fast export`` wrote, or the model file in it.
        provider: See ``open_session``.
        threads: Threads on the CPU; default: the processors that this program may use.
        precision: Of OpenVINO only: ``fp32`` or ``bf16``; default: the export's own.
        batch_size: Most crops that run at once, up to the largest batch that was verified; more
            people are cut into such pieces.

    Example:
        >>> predictor = Predictor("exported")
        >>> prediction = predictor(["skater.jpg"], [[30, 40, 200, 380]])
        >>> prediction.betas.shape
        (1, 10)
    """

    def __init__(
        self,
        model: str | Path,
        *,
        provider: str = "auto",
        threads: int | None = None,
        precision: str | None = None,
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"Predictor: batch_size must be 1 or more, got {batch_size}")
        self.session = open_session(model, provider=provider, threads=threads, precision=precision)
        self.card = self.session.card
        self.folder = find_model(model).folder
        self.batch_size = min(batch_size, self.card.max_batch)
        self._pads = self.session.provider in ("cuda", "tensorrt")
        self._threads = threads

    def __call__(
        self, photos: Sequence[ImageSource], boxes: ArrayLike | None = None
    ) -> PhotoPredictions:
        """Predict one body per photo and box.

        Args:
            photos: Whole photos, one per person: paths, encoded bytes or RGB arrays. One that
                stands several times in a row is read once.
            boxes: ``[N, 4]``: x, y, width, height in photo pixels. ``None``, or a row of NaN: the
                whole photo.
        """
        crops, pixels, messages = self.preprocess(photos, boxes)
        return self.postprocess(self.infer(pixels), crops, messages)

    @cached_property
    def finder(self) -> PersonFinder:
        """The detector of the export, in ONNX Runtime; opened with the first search.

        Raises:
            FileNotFoundError: If the export has none.
            ValueError: If a file of it is damaged.
            ImportError: If ONNX Runtime is not installed.
        """
        provider = "cuda" if self._pads else "cpu"
        return PersonFinder(self.folder, provider=provider, threads=self._threads)

    def find(self, photos: Sequence[ImageSource]) -> FoundPeople:
        """Find the people in photos, with their keypoints, by the detector of the export.

        Args:
            photos: Whole photos: paths, encoded bytes or RGB arrays. One that cannot be read has
                nobody and a message, and changes nobody else.

        Raises:
            FileNotFoundError: If the export has no detector.

        Example:
            >>> people = predictor.find(["street.jpg"])
            >>> bodies = predictor(people.photos, people.boxes)
            >>> config = MapConfig(keypoint_noise=people.noise)
            >>> fits = predictor.fit(people.photos, people.keypoints, people.boxes, config=config)
        """
        _check_sequence(photos)
        return self.finder.find_all(photos)

    @cached_property
    def fit_model(self) -> FitModel:
        """The file of the export that fits; opened with the first such fit.

        Raises:
            FileNotFoundError: If the export has none.
            ValueError: If it is damaged, or belongs to other weights.
        """
        model = FitModel(self.folder, threads=self._threads)
        if model.card.weights_sha256 != self.card.weights_sha256:
            raise ValueError(
                f"serving: the file that fits in {self.folder} belongs to "
                f"{model.card.regressor}, the model is {self.card.regressor}; export again"
            )
        return model

    @cached_property
    def fit_asset(self) -> FitAsset:
        """Body data and error covariance of the export; read with the first fit.

        Raises:
            ValueError: If the export has none, or it does not belong to the model.
        """
        return load_asset(self.folder, self.card)

    def fit(
        self,
        photos: Sequence[ImageSource],
        keypoints: ArrayLike,
        boxes: ArrayLike | None = None,
        *,
        joint_set: str | JointSet = "coco17",
        intrinsics: ArrayLike | float | str | None = None,
        config: MapConfig | None = None,
        engine: str = "numpy",
    ) -> PhotoFits:
        """Fit one body per photo to its keypoints: ``method="map"`` without torch.

        The most probable body given the keypoints and the model's answer, in float64 (docs/map.md).
        Nobody's fit depends on who else is fitted; only the model itself may round another batch
        differently.

        Args:
            photos: As in a call.
            keypoints: ``[N, K, 3]``: x, y in photo pixels and confidence; 0 or NaN leaves one out.
            boxes: As in a call; without one the box of the keypoints is taken.
            joint_set: Order of the keypoints.
            intrinsics: Pinhole of the photos as in ``fit_batch``: ``[3, 3]`` or ``[N, 3, 3]`` in
                pixels, a focal length, or ``"diagonal"``; None: ``config.distance`` assumes one.
            config: Options of the fit; defaults as of ``fit_batch``.
            engine: ``numpy``, or ``graph``: the file of ``eft-fast export --fit`` does all of it,
                from the crop on, in single precision. It takes no options but those that make
                sigmas of confidences, tells of no exchanged legs, and counts no steps (0).

        Raises:
            ValueError: If the export holds nothing to fit with, or an argument makes no sense.

        Example:
            >>> fits = predictor.fit(["skater.jpg"], keypoints, [[30, 40, 200, 380]])
            >>> fits.joint_sigma_mm.shape
            (1, 24)
        """
        points, config = find_joint_set(joint_set), checked_config(config)
        if engine not in ENGINES:
            raise ValueError(f"Predictor: engine must be one of {list(ENGINES)}, got {engine!r}")
        solver = None
        if engine == "graph":
            solver = GraphSolver(self.fit_model, points, config)
        asset = self.fit_asset
        asset.points(points)
        given = _check_keypoints(keypoints, len(photos), points)
        samples = Sample.from_arrays(
            photos,  # type: ignore[arg-type]
            given,
            bboxes=_check_boxes(boxes, len(photos)),
            joint_set=points.name,
            intrinsics=intrinsics,
        )
        people: list[PlacedPerson | str] = []
        sizes: list[tuple[int, int]] = []
        source: Any = None
        photo: np.ndarray | Exception | None = None
        for item, sample in zip(photos, samples, strict=True):
            if photo is None or not _is_same(item, source):
                source, photo = item, _read(item)
            placed = place_person(
                sample, photo, size=self.card.input_size, margin=self.card.box_margin
            )
            people.append(placed if isinstance(placed, PlacedPerson) else placed.message)
            sizes.append((0, 0) if isinstance(photo, Exception) else photo.shape[1::-1])
        solve = solver or NumpySolver(self.infer, asset, points, config)
        return fit_placed(people, samples, sizes, solve, asset, points, self.card)

    def preprocess(
        self, photos: Sequence[ImageSource], boxes: ArrayLike | None = None
    ) -> tuple[list[Crop | None], UInt8[np.ndarray, "N S S 3"], list[str]]:
        """Read and crop: the square of each person (None if that failed), its pixels, a message."""
        _check_sequence(photos)
        given = _check_boxes(boxes, len(photos))
        size = self.card.input_size
        crops: list[Crop | None] = []
        pixels = np.zeros((len(photos), size, size, 3), np.uint8)
        messages = []
        source: Any = None
        photo: np.ndarray | Exception | None = None
        for index, item in enumerate(photos):
            if photo is None or not _is_same(item, source):
                source, photo = item, _read(item)
            try:
                crop = self._crop(photo, given[index])
                pixels[index] = crop_image(photo, crop)  # type: ignore[arg-type]
            except (OSError, ValueError, TypeError) as error:
                crops.append(None)
                messages.append(str(error))
            else:
                crops.append(crop)
                messages.append("")
        return crops, pixels, messages

    def _crop(self, photo: np.ndarray | Exception, box: np.ndarray) -> Crop:
        if isinstance(photo, Exception):
            raise photo
        if np.isnan(box).all():
            box = np.array([0.0, 0.0, photo.shape[1], photo.shape[0]])
        crop = Crop.from_box(box, self.card.input_size, margin=self.card.box_margin)
        height, width = photo.shape[:2]
        if not meets_photo(tuple(box.tolist()), (width, height)):
            raise ValueError(
                f"Predictor: the box {box_text(tuple(box.tolist()))} lies beside the {width} x "
                f"{height} photo; give x, y, width, height in its pixels"
            )
        return crop

    def infer(self, pixels: UInt8[np.ndarray, "N S S 3"]) -> dict[str, np.ndarray]:
        """Run the model on any number of crops, in pieces of ``batch_size``."""
        pieces = [
            self._run_padded(pixels[start : start + self.batch_size])
            for start in range(0, len(pixels), self.batch_size)
        ] or [self.session.run(pixels)]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def _run_padded(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        count = len(pixels)
        bucket = min(pad_to_bucket(count), self.card.max_batch) if self._pads else count
        if bucket > count:
            pixels = np.concatenate(
                [pixels, np.zeros((bucket - count, *pixels.shape[1:]), np.uint8)]
            )
        return {name: value[:count] for name, value in self.session.run(pixels).items()}

    def postprocess(
        self,
        outputs: dict[str, np.ndarray],
        crops: Sequence[Crop | None],
        messages: Sequence[str] | None = None,
    ) -> PhotoPredictions:
        """Put the model's answer into the photos; who has no crop becomes NaN."""
        is_bad = np.array([crop is None for crop in crops], dtype=bool)
        values: dict[str, Any] = {}
        for name, value in outputs.items():
            value = np.array(value, np.float32)
            value[is_bad] = np.nan
            values[name] = value
        nowhere = np.full(2, np.nan)
        center = np.array(
            [nowhere if crop is None else crop.center for crop in crops], np.float64
        ).reshape(-1, 2)
        scale = np.array([np.nan if crop is None else crop.scale for crop in crops], np.float64)
        joints = values.get("joints")
        return PhotoPredictions(
            rotmat=values["rotmat"],
            betas=values["betas"],
            cam=values["cam"],
            bbox_center=center,
            bbox_scale=scale,
            joints=joints,
            joints_2d_px=None if joints is None else _project(joints, values["cam"], center, scale),
            vertices=values.get("vertices"),
            message=tuple(messages) if messages is not None else ("",) * len(crops),
            card=self.card,
            confidence=values.get("confidence"),
        )


def pad_to_bucket(count: int) -> int:
    """The smallest bucket that holds ``count`` crops; beyond the largest, ``count`` itself."""
    return min((size for size in GPU_BUCKETS if size >= count), default=count)


def _project(
    joints: np.ndarray, cam: np.ndarray, center: np.ndarray, scale: np.ndarray
) -> Float32[np.ndarray, "N K 2"]:
    """Joints in photo pixels: u = s * X + t of the crop, then x = c + u * side / 2."""
    unit = cam[:, None, :1] * joints[..., :2] + cam[:, None, 1:]
    half_side = (BOX_UNIT / 2 * scale)[:, None, None]
    return np.asarray(center[:, None] + half_side * unit, np.float32)


def _read(source: ImageSource) -> np.ndarray | Exception:
    try:
        return load_image(source)
    except (OSError, ValueError, TypeError) as error:
        return error


def _is_same(item: ImageSource, other: Any) -> bool:
    """Whether both are one photo; arrays are compared by identity, paths and bytes by value."""
    plain = (str, bytes, os.PathLike)
    return item == other if isinstance(item, plain) and isinstance(other, plain) else item is other


def _check_sequence(photos: Any) -> None:
    if isinstance(photos, str | bytes | os.PathLike):
        raise TypeError("Predictor: photos must be a sequence, got a single one; use a list")


def _check_keypoints(keypoints: ArrayLike, count: int, points: JointSet) -> np.ndarray:
    try:
        given = np.asarray(keypoints, np.float64)
    except (TypeError, ValueError):
        raise ValueError("Predictor: keypoints must be numbers x, y, confidence") from None
    shape = (count, len(points), 3)
    if given.size == 0 and count == 0:
        return given.reshape(shape)
    if given.shape != shape:
        raise ValueError(
            f"Predictor: keypoints must be {list(shape)} for {count} photos and joint set "
            f"{points.name}, got {list(given.shape)}"
        )
    return given


def _check_boxes(boxes: ArrayLike | None, count: int) -> np.ndarray:
    if boxes is None:
        return np.full((count, 4), np.nan)
    try:
        given = np.asarray(boxes, np.float64)
    except (TypeError, ValueError):
        raise ValueError("Predictor: boxes must be numbers x, y, width, height") from None
    if given.size == 0 and count == 0:
        return given.reshape(0, 4)
    if given.shape != (count, 4):
        raise ValueError(
            f"Predictor: boxes must be [{count}, 4] (x, y, width, height), got {list(given.shape)}"
        )
    return given
