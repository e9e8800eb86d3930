"""Options of the synthetic scenes: one frozen dataclass per subject, and one that holds them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

from eft_fast.conventions import OPEN_CROP


@dataclass(frozen=True)
class PoseConfig:
    """Odds of what happens to a pose.

    Attributes:
        procedural: A whole pose that is not from motion capture (sitting, crouching, riding).
        procedural_legs: Procedural legs under a captured upper body.
        mix: Upper or lower body of another frame.
        jitter: Noise on every joint, of ``jitter_deg`` degrees.
        mirror: Left and right swapped.
        uniform_yaw: Seen from any side, else from about the front.
        any_roll: Rolled by any angle in the image: lying, upside down.
        lying: On the back, the front or a side.
        standing: Legs of somebody who stands, under a captured upper body. Motion capture is of
            people who move: their knees are hardly ever straight.
    """

    procedural: float = 0.18
    procedural_legs: float = 0.12
    mix: float = 0.30
    jitter: float = 0.70
    jitter_deg: float = 4.0
    mirror: float = 0.5
    uniform_yaw: float = 0.6
    any_roll: float = 0.05
    lying: float = 0.0
    standing: float = 0.0


@dataclass(frozen=True)
class CameraConfig:
    """Camera and placement of the crop.

    Attributes:
        distance_m: Range of the distance to the pelvis, log-uniform; near ones give perspective.
        margin: Crop side over the longer side of the visible part of the person, on average.
        margin_sigma: Standard deviation of its logarithm.
        shift_sigma: Standard deviation of the crop's centre, in sides.
        cut_hips: Odds that the picture of the person ends about the hips.
        cut_elbows: The same about the elbows.
        cut_knees: The same about the knees.
        cut_side: Odds that a part of the left or right is cut.
        frame_edge: Odds that a cut crop leaves the photo, so that the rest is black.
    """

    distance_m: tuple[float, float] = (2.2, 12.0)
    margin: float = 1.23
    margin_sigma: float = 0.11
    shift_sigma: float = 0.035
    cut_hips: float = 0.14
    cut_elbows: float = 0.05
    cut_knees: float = 0.06
    cut_side: float = 0.04
    frame_edge: float = 0.5


@dataclass(frozen=True)
class PhotoConfig:
    """What happens to the picture after it is rendered: odds, and ranges where they matter.

    Attributes:
        occluder: Flat things in front of the person.
        table: A wide thing that hides everything below a line, as a table does.
        companion: Another person beside, behind or in front of the one who is labelled.
        photo_background: A crop of a photograph behind, where there are photographs.
        background_blur: Defocus of the background.
        blur: Defocus of the whole picture.
        resample: Shrunk and enlarged again.
        jpeg: JPEG compression, of quality ``jpeg_quality``.
        noise: Largest standard deviation of the noise, of 255 levels.
    """

    occluder: float = 0.40
    table: float = 0.07
    companion: float = 0.2
    photo_background: float = 0.6
    background_blur: float = 0.3
    blur: float = 0.5
    resample: float = 0.3
    jpeg: float = 0.5
    jpeg_quality: tuple[int, int] = (35, 95)
    noise: float = 7.5


@dataclass(frozen=True)
class SynthConfig:
    """Everything that decides how image number i looks.

    Attributes:
        size: Side of the crop, pixels.
        seed: Seed of the whole set; image i depends on ``seed``, the split and i only.
        beta_sigma: Standard deviation of the shape coefficients, which end at 3.
        child: Odds of a child's proportions: the short end of the shape space, with a larger head.
        loose: Odds of loose clothes, which stand off by 3 to 6 cm.
        ground: Odds of a floor that the person touches, and of a seat under who sits.
        supersample: Samples per pixel and axis.
    """

    size: int = OPEN_CROP
    seed: int = 0
    beta_sigma: float = 1.1
    supersample: int = 2
    child: float = 0.0
    loose: float = 0.0
    ground: float = 0.0
    pose: PoseConfig = field(default_factory=PoseConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    photo: PhotoConfig = field(default_factory=PhotoConfig)


def varied(size: int = OPEN_CROP, seed: int = 0) -> SynthConfig:
    """Return options with everything that scenes can have: children, floors, seats, lying people.

    The defaults of ``SynthConfig`` leave these out, so that sets of earlier versions repeat.
    """
    pose = PoseConfig(procedural=0.25, lying=0.06)
    return SynthConfig(size=size, seed=seed, child=0.12, loose=0.25, ground=0.6, pose=pose)


#: What differs from ``varied`` where everybody is of one kind.
_KINDS: Final[dict[str, dict[str, Any]]] = {
    "standing": {"pose": PoseConfig(procedural=0.0, standing=1.0)},
    "sitting": {"pose": PoseConfig(procedural=1.0)},
    "lying": {"pose": PoseConfig(procedural=0.25, lying=1.0)},
    "rolled": {"pose": PoseConfig(procedural=0.25, any_roll=1.0)},
    "children": {"child": 1.0},
}
#: Names of ``make_scenes``.
SCENES: Final = ("training", "varied", *_KINDS)


def make_scenes(name: str, size: int = OPEN_CROP, seed: int = 0) -> SynthConfig:
    """Return the options of one kind of scene.

    Args:
        name: One of ``SCENES``. ``"training"``: as the shipped ``open-1`` was trained on;
            ``"varied"``: with everything (``varied``); the others are varied scenes in which
            everybody stands, sits (or crouches, kneels, rides), lies, is rolled by any angle in
            the image, or is a child.
        size: Side of a picture, pixels.
        seed: Of the whole set.

    Raises:
        ValueError: If there is no such kind.
    """
    if name not in SCENES:
        raise ValueError(f"make_scenes: must be one of {', '.join(SCENES)}, got {name!r}")
    if name == "training":
        return SynthConfig(size=size, seed=seed)
    return replace(varied(size, seed), **_KINDS.get(name, {}))
