"""Rendered training pairs: image i and its labels, the same whoever renders them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from eft_fast.body import Smpl
from eft_fast.ops.raster import rasterize, vertex_normals
from eft_fast.synth import photo
from eft_fast.synth.backgrounds import Backgrounds
from eft_fast.synth.clothes import Wardrobe
from eft_fast.synth.config import SynthConfig
from eft_fast.synth.landmarks import body_landmarks
from eft_fast.synth.motion import SPLITS, PosePool, Split, load_motion
from eft_fast.synth.scene import (
    CropCamera,
    Lights,
    Person,
    sample_camera,
    sample_distance,
    sample_lights,
    sample_person,
)
from eft_fast.synth.shade import shade

#: A landmark farther behind the drawn surface than this, in metres, is behind another body part.
#: Joints lie inside the body: hips up to about 0.12 m under the skin.
HIDDEN_DEPTH = 0.15


@dataclass(frozen=True)
class SynthSample:
    """One training pair. Metres, camera frame (x right, y down, z forward).

    Attributes:
        image: RGB crop.
        rotmat: Rotations relative to the parent; the root's from the body to the camera.
        betas: Shape coefficients.
        transl: Added to the posed body, so that it stands before the camera.
        joints: Kinematic joints.
        landmarks: The points of ``synth.landmarks.LANDMARKS``.
        landmarks_2d: Their x and y in [-1, 1] of the crop, and 2 = visible, 1 = hidden by
            something in front, 0 = outside the picture.
        camera: Focal length in half crop sides, and principal point in [-1, 1].
        mask: Pixels of the person before anything stood in front.
    """

    image: UInt8[np.ndarray, "S S 3"]
    rotmat: Float[np.ndarray, "24 3 3"]
    betas: Float[np.ndarray, " 10"]
    transl: Float[np.ndarray, " 3"]
    joints: Float[np.ndarray, "24 3"]
    landmarks: Float[np.ndarray, "27 3"]
    landmarks_2d: Float[np.ndarray, "27 3"]
    camera: Float[np.ndarray, " 3"]
    mask: Bool[np.ndarray, "S S"]


class Renderer:
    """Renders the images of one split by their index.

    Args:
        body: The body model; its landmarks and faces are what is drawn and labelled.
        pool: Poses of the split.
        split: Name of the split, part of every image's seed.
        backgrounds: Photographs, if any.
        config: How images look.
    """

    def __init__(
        self,
        body: Smpl,
        pool: PosePool,
        split: Split,
        backgrounds: Backgrounds | None = None,
        config: SynthConfig | None = None,
    ) -> None:
        self.body = body
        self.pool = pool
        self.split = split
        self.backgrounds = backgrounds if backgrounds is not None else Backgrounds()
        self.config = config if config is not None else SynthConfig()
        self._faces = torch.as_tensor(np.asarray(body.faces, dtype=np.int64)).to(torch.int32)
        self._wardrobe = make_wardrobe(body)
        self._rest = torch.from_numpy(self._wardrobe.rest.astype(np.float32))

    def rng(self, index: int) -> np.random.Generator:
        """Return the generator of image ``index``."""
        return np.random.default_rng([self.config.seed, SPLITS.index(self.split), index])

    @torch.no_grad()
    def render(self, index: int) -> SynthSample:
        """Render image ``index``. Depends on nothing else: not on order, nor on processes."""
        config, rng = self.config, self.rng(index)
        person = sample_person(rng, self.pool, self._wardrobe, config)
        rotmat = torch.from_numpy(person.rotmat.astype(np.float32))[None]
        betas = torch.from_numpy(person.betas.astype(np.float32))[None]
        posed = self.body(betas, rotmat[:, 1:], rotmat[:, :1], pose2rot=False)
        transl = torch.tensor([0.0, 0.0, sample_distance(rng, config.camera)]) - posed.joints[0, 0]
        vertices = posed.vertices[0] + transl
        normals = vertex_normals(vertices, self._faces)
        inflation = torch.from_numpy(person.outfit.inflation.astype(np.float32))
        surface = vertices + normals * inflation[:, None]
        joints = (posed.joints[0, :24] + transl).numpy()
        landmarks = (body_landmarks(self.body, rotmat, betas)[0] + transl).numpy()
        camera = sample_camera(rng, surface.numpy()[::7], landmarks, config.camera)

        picture, coverage, depth = self._draw(rng, person, surface, normals, camera)
        photo_area = _photo_area(camera, config.size)
        occluders = photo.sample_occluders(rng, config.size, config.photo)
        if occluders is not None:
            picture = photo.add_occluders(rng, picture, occluders, self.backgrounds)
        image = photo.develop(rng, picture, config.photo) * photo_area[..., None]
        return SynthSample(
            image=image.astype(np.uint8),
            rotmat=rotmat[0].numpy(),
            betas=betas[0].numpy(),
            transl=transl.numpy(),
            joints=joints,
            landmarks=landmarks,
            landmarks_2d=_label(landmarks, camera, depth, occluders, photo_area),
            camera=np.array([camera.focal, *camera.shift], dtype=np.float32),
            mask=(coverage > 0.5) & photo_area,
        )

    def _draw(
        self,
        rng: np.random.Generator,
        person: Person,
        surface: torch.Tensor,
        normals: torch.Tensor,
        camera: CropCamera,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw the person over a background: levels in [0, 255], coverage and depth."""
        config = self.config
        size = config.size
        pixels = (camera.project(surface.numpy()) + 1) * (size / 2)
        fields = torch.from_numpy(person.outfit.fields.T.astype(np.float32))
        drawn = rasterize(
            torch.from_numpy(np.column_stack([pixels, surface[:, 2].numpy()]).astype(np.float32)),
            self._faces,
            torch.cat([normals, self._rest, fields], dim=1),
            height=size,
            width=size,
            samples=config.supersample,
            perspective=True,
        )
        coverage, depth = drawn.coverage.numpy(), drawn.depth.numpy()
        lights, texture = sample_lights(rng), self.backgrounds.draw(rng, 64)
        picture = self._background(rng).astype(np.float32)
        rows, columns = np.nonzero(coverage)
        if len(rows):
            share = coverage[rows, columns][:, None]
            values = drawn.image.numpy()[rows, columns] / share
            softness = max(0.003, 2 / (camera.focal * size) * float(surface[:, 2].mean()))
            colour = _shade(values, person, lights, texture, softness)
            picture[rows, columns] = picture[rows, columns] * (1 - share) + 255 * colour * share
        return picture, coverage, depth

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        options = self.config.photo
        picture = self.backgrounds.draw(rng, self.config.size, photo=options.photo_background)
        if rng.random() < options.background_blur:
            picture = photo.blur(picture, float(rng.uniform(0.8, 3.0)))
        return picture


def make_wardrobe(body: Smpl) -> Wardrobe:
    """Measure a body model at rest, so that clothes fit it."""
    with torch.no_grad():
        identity = torch.eye(3).expand(1, 24, 3, 3)
        betas = torch.zeros(1, 10)
        face = body_landmarks(body, identity, betas)[0, :5].numpy()
        rest = body(betas, identity[:, 1:], identity[:, :1], pose2rot=False)
    joint_of = body.lbs_weights.argmax(1).numpy()
    return Wardrobe(rest.vertices[0].numpy(), rest.joints[0, :24].numpy(), joint_of, face)


def make_renderer(
    body: Smpl,
    motion: str | Path,
    split: Split,
    *,
    backgrounds: str | Path | None = None,
    config: SynthConfig | None = None,
) -> Renderer:
    """Build a renderer from a folder of motion capture and one of photographs."""
    return Renderer(body, load_motion(motion, split), split, Backgrounds(backgrounds), config)


def _shade(
    values: np.ndarray, person: Person, lights: Lights, texture: np.ndarray, softness: float
) -> np.ndarray:
    return shade(
        values[:, :3], values[:, 3:6], values[:, 6:], person.outfit, lights, texture, softness
    )


def _photo_area(camera: CropCamera, size: int) -> Bool[np.ndarray, "S S"]:
    """Return which pixels of the crop lie inside the photo."""
    u = np.arange(size) / (size / 2) - 1
    left, upper, right, lower = camera.limits
    area: np.ndarray = ((u >= upper) & (u <= lower))[:, None] & ((u >= left) & (u <= right))
    return area


def _label(
    landmarks: Float[np.ndarray, "27 3"],
    camera: CropCamera,
    depth: Float[np.ndarray, "S S"],
    occluders: Float[np.ndarray, "S S"] | None,
    photo_area: Bool[np.ndarray, "S S"],
) -> Float[np.ndarray, "27 3"]:
    """Project landmarks and say which of them can be seen."""
    size = len(depth)
    flat = camera.project(landmarks)
    pixel = np.rint((flat + 1) * (size / 2)).astype(np.int64)
    inside = ((pixel >= 0) & (pixel < size)).all(1)
    column, row = np.clip(pixel, 0, size - 1).T
    inside &= photo_area[row, column]
    hidden = landmarks[:, 2] > depth[row, column] + HIDDEN_DEPTH
    if occluders is not None:
        hidden |= occluders[row, column] > 0.5
    seen = np.where(inside, np.where(hidden, 1, 2), 0)
    return np.column_stack([flat, seen]).astype(np.float32)
