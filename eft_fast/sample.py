"""The one record that goes in: a person in a photo, from a dataset or from arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from eft_fast.imaging import plain_image
from eft_fast.keypoints import JOINT_SETS, JointSet, to_body_set
from eft_fast.keypoints import joint_set as find_joint_set

if TYPE_CHECKING:
    from jaxtyping import Float
    from PIL.Image import Image as Picture
    from torch import Tensor

    #: A photo as calls take one; opened files are read at once.
    Photo: TypeAlias = "Image | IO[bytes] | Picture | Tensor"

#: A photo that stays: a path, the bytes of an encoded file, or RGB uint8 ``[H, W, 3]``.
Image = str | Path | bytes | npt.NDArray[np.uint8]
#: A photo's pinhole [3,3], pixels; the focal length in pixels of one at the photo's middle; or
#: ``DIAGONAL``.
Pinhole = npt.NDArray[np.float64] | float | str
#: Name of the pinhole of which nothing but the photo's size is known.
DIAGONAL: Final = "diagonal"


@dataclass(frozen=True, eq=False)
class Sample:
    """One annotated person in one photo. What an annotation file does not say is None.

    Attributes:
        id: Unique among the samples of one file.
        dataset: Name of the file format or dataset that it comes from.
        image: The photo: a path, the bytes of an encoded file, or RGB uint8 ``[H, W, 3]``.
        keypoints_2d_px: x, y in photo pixels, and confidence in [0, 1]; 0 is not labelled. Labels
            by people have confidence 0 or 1, those by detectors anything between.
        keypoint_set: Name of their order in ``eft_fast.keypoints``.
        image_size: Width and height of the photo, upright.
        bbox_xyxy: Left, top, right, bottom of the person, in pixels.
        bbox_center: Centre of the square crop, in pixels.
        bbox_scale: Side of the square crop over 200 pixels, margin included.
        keypoints_3d: x, y, z in metres in the camera frame, and confidence.
        keypoint_set_3d: Name of their order, where it is not that of the 2D keypoints.
        K: Camera matrix of the photo, in pixels, or another ``Pinhole``.
        cam_transl: Translation of the body in the camera frame, in metres.
        full_pose: Axis-angle rotations of the SMPL joints, the root first.
        betas: SMPL shape coefficients.
        gender: ``"neutral"``, ``"female"`` or ``"male"``.
        mask: Pixels of the person.
        subject_id: The same person in other photos has the same one.
        track_id: The same person in other frames of a video has the same one.
        frame: Number of the frame in its video.
        problem: Why this person cannot be fitted, in one sentence.
        notes: What is odd about this person but does not hinder a fit, a sentence each.
        extra: Other fields of the annotation file, under its own names.
    """

    id: str
    dataset: str
    image: Image | None
    keypoints_2d_px: Float[np.ndarray, "K 3"]
    keypoint_set: str
    image_size: tuple[int, int] | None = None
    bbox_xyxy: Float[np.ndarray, " 4"] | None = None
    bbox_center: Float[np.ndarray, " 2"] | None = None
    bbox_scale: float | None = None
    keypoints_3d: Float[np.ndarray, "S 4"] | None = None
    keypoint_set_3d: str | None = None
    K: Pinhole | None = None
    cam_transl: Float[np.ndarray, " 3"] | None = None
    full_pose: Float[np.ndarray, "24 3"] | None = None
    betas: Float[np.ndarray, " 10"] | None = None
    gender: str | None = None
    mask: np.ndarray | None = None
    subject_id: str | None = None
    track_id: str | None = None
    frame: int | None = None
    problem: str | None = None
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_arrays(
        cls,
        images: Sequence[Photo],
        keypoints: npt.ArrayLike,
        *,
        bboxes: npt.ArrayLike | None = None,
        joint_set: str = "coco17",
        intrinsics: npt.ArrayLike | float | str | None = None,
        keypoints_3d: npt.ArrayLike | None = None,
    ) -> list[Sample]:
        """Make the samples of ``fit_batch``, whose docstring says what each argument is.

        Raises:
            ValueError: If the arguments as a whole make no sense: an unknown joint set, lengths
                that disagree, shapes that are wrong.
            TypeError: If ``images`` is a single photo.
        """
        points_set = find_joint_set(joint_set)
        images = _check_images(images)
        given, boxes = _check_people(images, keypoints, bboxes, points_set)
        pinholes = check_pinholes(intrinsics, len(images))
        solid = None if keypoints_3d is None else as_numbers(keypoints_3d, "keypoints_3d")
        if solid is not None and solid.shape != (*given.shape[:2], 4):
            raise ValueError(
                f"fit_batch: keypoints_3d must be {[*given.shape[:2], 4]} (x, y, z in metres and "
                f"confidence), got {list(solid.shape)}"
            )
        body_set = to_body_set(points_set)
        given = given[:, : len(body_set)]
        solid = None if solid is None else solid[:, : len(body_set)]
        return [
            cls(
                id=str(index),
                dataset="arrays",
                image=image,
                problem=problem,
                keypoints_2d_px=given[index],
                keypoint_set=joint_set if body_set is points_set else body_set.name,
                bbox_xyxy=_to_xyxy(boxes[index]),
                keypoints_3d=None if solid is None else _to_float32(solid[index]),
                K=pinholes[index] if isinstance(pinholes, np.ndarray) else pinholes,
            )
            for index, (image, problem) in enumerate(_take_photos(images))
        ]

    @classmethod
    def from_tuple(
        cls, given: Any, index: int, points_set: JointSet, pinhole: Pinhole | None
    ) -> Sample:
        """Make the sample of one element of ``fit_stream``; what is wrong becomes its problem."""
        image: Image = ""
        keypoints = np.zeros((len(points_set), 3), np.float32)
        body_set = to_body_set(points_set)
        box, problem = np.full(4, np.nan), None
        try:
            if not isinstance(given, tuple) or len(given) not in (2, 3):
                raise ValueError(
                    "fit_stream: a person must be (image, keypoints) or (image, keypoints, bbox)"
                )
            image = plain_image(given[0])
            found = _to_float32(as_numbers(given[1], "keypoints"))
            if found.shape != keypoints.shape:
                raise ValueError(
                    f"fit_stream: keypoints must be [{len(keypoints)}, 3] for joint set "
                    f"{points_set.name}, got {list(found.shape)}"
                )
            if len(given) == 3 and given[2] is not None:
                box = as_numbers(given[2], "bbox")
            if box.shape != (4,):
                raise ValueError(
                    f"fit_stream: bbox must be x, y, width, height, got {box.tolist()}"
                )
            keypoints = found
        except ValueError as error:
            problem, box = str(error), np.full(4, np.nan)
        return cls(
            id=str(index),
            dataset="arrays",
            image=image,
            keypoints_2d_px=keypoints[: len(body_set)],
            keypoint_set=body_set.name,
            bbox_xyxy=_to_xyxy(box),
            K=pinhole,
            problem=problem,
        )

    @property
    def photo(self) -> str:
        """Path of the photo as text; empty where the photo has none."""
        return os.fspath(self.image) if isinstance(self.image, str | Path) else ""

    @property
    def bbox_xywh(self) -> Float[np.ndarray, " 4"] | None:
        """The box as left, top, width, height: the form that ``fit_batch`` takes."""
        if self.bbox_xyxy is None:
            return None
        with np.errstate(invalid="ignore"):  # an infinite corner stays one that is not finite
            size = self.bbox_xyxy[2:] - self.bbox_xyxy[:2]
        return np.concatenate([self.bbox_xyxy[:2], size])

    @property
    def num_labelled(self) -> int:
        """Keypoints with a confidence above 0."""
        return int(np.count_nonzero(self.keypoints_2d_px[:, 2] > 0.0))

    @property
    def order_3d(self) -> str:
        """Name of the order of ``keypoints_3d``."""
        return self.keypoint_set_3d or self.keypoint_set

    @property
    def has_pose(self) -> bool:
        """Whether the annotation holds an SMPL pose."""
        return self.full_pose is not None

    @property
    def has_betas(self) -> bool:
        """Whether the annotation holds an SMPL shape."""
        return self.betas is not None

    @property
    def has_keypoints_3d(self) -> bool:
        """Whether the annotation holds 3D keypoints."""
        return self.keypoints_3d is not None


class SampleList(list[Sample]):
    """The samples of an annotation file, a count of what was left out, by reason, and notes.

    ``notes`` holds what is odd about the file as a whole, a sentence each.
    """

    def __init__(
        self,
        samples: Iterable[Sample] = (),
        left_out: Mapping[str, int] | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        super().__init__(samples)
        self.left_out: dict[str, int] = dict(left_out or {})
        self.notes: list[str] = list(notes)

    @property
    def problems(self) -> list[str]:
        """The sentences of all samples that cannot be fitted."""
        return [sample.problem for sample in self if sample.problem is not None]


def in_one_set(samples: Sequence[Sample]) -> list[Sample]:
    """The samples in the largest of their joint sets, if that begins with all of the others.

    COCO's people with and without feet come to ``coco23``, those without with feet of confidence 0.
    Where the sets are too different, samples stay as they are.
    """
    sets = {sample.keypoint_set: find_joint_set(sample.keypoint_set) for sample in samples}
    if len(sets) < 2:
        return list(samples)
    largest = max(sets.values(), key=len)
    if any(order.names != largest.names[: len(order)] for order in sets.values()):
        return list(samples)
    return [in_set(sample, largest.name) for sample in samples]


def in_set(sample: Sample, joint_set: str) -> Sample:
    """The sample in a joint set that begins with its own: what it lacks has confidence 0."""
    points = sample.keypoints_2d_px
    more = np.zeros((len(find_joint_set(joint_set)) - len(points), 3), points.dtype)
    points = np.concatenate([points, more])
    return replace(sample, keypoints_2d_px=points, keypoint_set=joint_set)


def check_pinholes(intrinsics: npt.ArrayLike | float | str | None, people: int) -> Pinhole | None:
    """Bring the argument of ``fit_batch`` into one form.

    Raises:
        ValueError: If it is neither ``diagonal``, nor a focal length, nor pinholes of all people.
    """
    if intrinsics is None:
        return None
    if isinstance(intrinsics, str):
        if intrinsics != DIAGONAL:
            raise ValueError(
                f"fit_batch: intrinsics must be {DIAGONAL!r}, a focal length, [3, 3] or "
                f"[{people}, 3, 3], got {intrinsics!r}"
            )
        return intrinsics
    given = as_numbers(intrinsics, "intrinsics")
    if given.ndim == 0:
        if not 0 < float(given) < np.inf:
            raise ValueError(f"fit_batch: a focal length must be positive, got {float(given):g}")
        return float(given)
    if given.shape == (3, 3):
        given = np.broadcast_to(given, (people, 3, 3))
    if given.shape != (people, 3, 3):
        raise ValueError(
            f"fit_batch: intrinsics must be [3, 3] or [{people}, 3, 3], got {list(given.shape)}"
        )
    is_pinhole = np.isfinite(given).all((1, 2)) & (given[:, 0, 0] > 0) & (given[:, 1, 1] > 0)
    is_pinhole &= (given[:, 2] == (0, 0, 1)).all(1)
    if not is_pinhole.all():
        raise ValueError(
            "fit_batch: intrinsics must have positive focal lengths and a last row of 0, 0, 1, "
            f"got {given[~is_pinhole][0].tolist()}"
        )
    return given


def as_numbers(values: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    """An array of numbers, from a torch tensor as well.

    Raises:
        ValueError: If it is none.
    """
    try:
        if hasattr(values, "detach"):
            # bfloat16 is known to torch alone; sparse and meta tensors hold no array.
            values = values.detach().cpu().double().numpy()
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        cause = str(error)[:200]  # which quotes texts, however long
        raise ValueError(f"fit_batch: {name} must be an array of numbers ({cause})") from error


def _to_float32(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The numbers in float32; what lies beyond becomes infinite, which a person's checks tell."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _check_images(images: Iterable[Photo]) -> list[Photo]:
    """The photos as a list.

    Raises:
        TypeError: If it is one photo, or no photos.
    """
    kind = ""
    if isinstance(images, str | Path):
        kind = "a single path"
    elif isinstance(images, bytes) or hasattr(images, "convert") or hasattr(images, "read"):
        kind = "a single picture"
    elif getattr(images, "ndim", 4) != 4:
        kind = f"a single array {list(getattr(images, 'shape', ()))}"
    elif not isinstance(images, Iterable):
        kind = type(images).__name__
    if kind:
        raise TypeError(
            f"fit_batch: images must be a sequence with one photo per person, got {kind}; put it "
            "into a list"
        )
    return list(images)


def _take_photos(images: Iterable[Any]) -> Iterator[tuple[Image, str | None]]:
    """Each photo in a form that stays, and why it has none; one that comes again in a row once.

    Opened files are read now: a later reader would find them elsewhere, and no other process can.
    """
    source: Any = None
    taken: tuple[Image, str | None] = "", None
    for image in images:
        if source is None or image is not source:
            source = image
            try:
                taken = plain_image(image), None
            except ValueError as error:
                taken = "", str(error)
        yield taken


def _shape_hint(shape: tuple[int, ...], count: int, width: int) -> str:
    """What keypoints of a wrong shape probably are, for the end of a sentence."""
    if shape == (count, width, 2) or (count == 1 and shape == (width, 2)):
        return "; add the confidence, 1 where a point is labelled and 0 where not"
    if count == 1 and shape == (width, 3):
        return "; give one person as keypoints[None]"
    if len(shape) == 3 and shape[0] == count and shape[2] == 3:
        names = [name for name, each in JOINT_SETS.items() if len(each) == shape[1]]
        return f"; {shape[1]} keypoints are those of {' or '.join(names)}" if names else ""
    return ""


def _check_people(
    images: Sequence[Photo],
    keypoints: npt.ArrayLike,
    bboxes: npt.ArrayLike | None,
    points_set: JointSet,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Keypoints ``[N, K, 3]`` and boxes ``[N, 4]`` of N photos; NaN where no box is given."""
    count, width = len(images), len(points_set.names)
    given = as_numbers(keypoints, "keypoints")
    if count == 0 and given.size == 0:
        given = given.reshape(0, width, 3)
    if given.shape != (count, width, 3):
        raise ValueError(
            f"fit_batch: keypoints must be [{count}, {width}, 3] for {count} photos and joint set "
            f"{points_set.name}, got {list(given.shape)}{_shape_hint(given.shape, count, width)}"
        )
    if bboxes is None:
        return _to_float32(given), np.full((count, 4), np.nan)
    boxes = as_numbers(bboxes, "bboxes")
    if count == 0 and boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.shape != (count, 4):
        raise ValueError(
            f"fit_batch: bboxes must be [{count}, 4] (x, y, width, height), got {list(boxes.shape)}"
        )
    return _to_float32(given), boxes


def _to_xyxy(box: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with np.errstate(over="ignore", invalid="ignore"):  # a corner that is none is told later
        return np.concatenate([box[:2], box[:2] + box[2:]])
