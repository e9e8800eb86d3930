"""Records that travel between modules: frozen dataclasses of numpy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class Sample:
    """One annotated person in one photo. What an annotation file does not say is None.

    Attributes:
        id: Unique among the samples of one file.
        dataset: Name of the file format or dataset that it comes from.
        image: The photo: a path, or the bytes of an encoded file.
        keypoints_2d_px: x, y in photo pixels, and confidence in [0, 1]; 0 is not labelled. Labels
            by people have confidence 0 or 1, those by detectors anything between.
        keypoint_set: Name of their order in ``eft_fast.keypoints``.
        image_size: Width and height of the photo, upright.
        bbox_xyxy: Left, top, right, bottom of the person, in pixels.
        bbox_center: Centre of the square crop, in pixels.
        bbox_scale: Side of the square crop over 200 pixels, margin included.
        keypoints_3d: x, y, z in metres in the camera frame, and confidence.
        K: Camera matrix of the photo, in pixels.
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
    image: Path | bytes | None
    keypoints_2d_px: Float[np.ndarray, "K 3"]
    keypoint_set: str
    image_size: tuple[int, int] | None = None
    bbox_xyxy: Float[np.ndarray, " 4"] | None = None
    bbox_center: Float[np.ndarray, " 2"] | None = None
    bbox_scale: float | None = None
    keypoints_3d: Float[np.ndarray, "K 4"] | None = None
    K: Float[np.ndarray, "3 3"] | None = None
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

    @property
    def bbox_xywh(self) -> Float[np.ndarray, " 4"] | None:
        """The box as left, top, width, height: the form that ``fit_batch`` takes."""
        if self.bbox_xyxy is None:
            return None
        return np.concatenate([self.bbox_xyxy[:2], self.bbox_xyxy[2:] - self.bbox_xyxy[:2]])

    @property
    def num_labelled(self) -> int:
        """Keypoints with a confidence above 0."""
        return int(np.count_nonzero(self.keypoints_2d_px[:, 2] > 0.0))

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
