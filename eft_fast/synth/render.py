"""Rendered training pairs: image i and its labels, the same whoever renders them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

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
from eft_fast.synth.motion import SPLITS, PosePool, Split, load_motion, sample_prior_poses
from eft_fast.synth.props import Props, sample_props
from eft_fast.synth.sample import Placed, Scene, Seen, SynthSample
from eft_fast.synth.scene import (
    CropCamera,
    Person,
    sample_camera,
    sample_distance,
    sample_lights,
    sample_person,
)
from eft_fast.synth.shade import shade

#: A landmark farther behind the drawn surface than this, in metres, is behind another body part.
#: Joints lie inside the body: hips up to about 0.12 m under the skin.
_HIDDEN_DEPTH: Final = 0.15
#: Seed branch of the other people, so that they leave the rest of a picture as it is.
_COMPANION_BRANCH: Final = 1
#: The same for floor and seat.
_PROPS_BRANCH: Final = 2
#: Where another person's pelvis may be, from the labelled one: to a side, and behind or in front.
_COMPANION_SIDE: Final = (0.4, 1.4)
_COMPANION_DEPTH: Final = (-0.8, 2.5)
#: Nobody stands nearer to the camera than this, metres.
_NEAREST: Final = 1.5


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
        self.wardrobe = make_wardrobe(body)
        self._rest = torch.from_numpy(self.wardrobe.rest.astype(np.float32))

    def rng(self, index: int) -> np.random.Generator:
        """Return the generator of image ``index``."""
        return np.random.default_rng([self.config.seed, SPLITS.index(self.split), index])

    @torch.no_grad()
    def scene(self, index: int) -> Scene:
        """Draw all random numbers of image ``index``: on nothing else do they depend."""
        config, rng = self.config, self.rng(index)
        person = sample_person(rng, self.pool, self.wardrobe, config)
        placed = self._place(person, np.array([0.0, 0.0, sample_distance(rng, config.camera)]))
        camera = sample_camera(
            rng, placed.surface.numpy()[::7], self._landmarks(placed), config.camera
        )
        lights, texture = sample_lights(rng), self.backgrounds.draw(rng, 64)
        background = self.background(rng)
        branch = np.random.default_rng(
            [config.seed, SPLITS.index(self.split), index, _COMPANION_BRANCH]
        )
        other = self._companion(branch, placed)
        props = self._props(index, placed)
        occluders = photo.sample_occluders(rng, config.size, config.photo)
        fill = None
        if occluders is not None:
            fill = photo.sample_fill(rng, config.size, self.backgrounds)
        development = photo.sample_development(rng, config.size, config.photo)
        return Scene(
            placed, other, camera, lights, texture, background, occluders, fill, development, props
        )

    def render(self, index: int) -> SynthSample:
        """Render image ``index``. Depends on nothing else: not on order, nor on processes."""
        return self.draw(self.scene(index))

    def draw(self, scene: Scene) -> SynthSample:
        """Draw a scene and label its person."""
        return self.draw_people(scene)[0]

    def draw_people(self, scene: Scene) -> list[SynthSample]:
        """Draw a scene and label everybody in it: the same picture, the labelled person first."""
        camera = scene.camera
        picture, seen = self._paint_people(scene)
        photo_area = _photo_area(camera, self.config.size)
        covered = np.zeros(photo_area.shape, np.float32)
        if scene.occluders is not None and scene.fill is not None:
            picture = photo.cover(picture, scene.occluders, scene.fill)
            covered = scene.occluders
        image = photo.develop(picture, scene.development) * photo_area[..., None]
        return [
            self._sample(one, camera, image.astype(np.uint8), covered, photo_area) for one in seen
        ]

    def _sample(
        self,
        seen: Seen,
        camera: CropCamera,
        image: UInt8[np.ndarray, "S S 3"],
        covered: Float[np.ndarray, "S S"],
        photo_area: Bool[np.ndarray, "S S"],
    ) -> SynthSample:
        """Label one person of a drawn picture."""
        placed, landmarks = seen.placed, self._landmarks(seen.placed)
        front = np.maximum(seen.front, covered)
        return SynthSample(
            image=image,
            rotmat=placed.person.rotmat.astype(np.float32),
            betas=placed.person.betas.astype(np.float32),
            transl=placed.transl.numpy(),
            joints=placed.joints.numpy(),
            landmarks=landmarks,
            landmarks_2d=_label(landmarks, camera, seen.depth, front, photo_area),
            camera=np.array([camera.focal, *camera.shift], dtype=np.float32),
            mask=(seen.coverage > 0.5) & photo_area,
        )

    def _place(self, person: Person, pelvis: Float[np.ndarray, " 3"]) -> Placed:
        """Pose and dress a person whose pelvis joint is at ``pelvis``."""
        rotmat = torch.from_numpy(person.rotmat.astype(np.float32))[None]
        betas = torch.from_numpy(person.betas.astype(np.float32))[None]
        posed = self.body(betas, rotmat[:, 1:], rotmat[:, :1], pose2rot=False)
        transl = torch.from_numpy(pelvis.astype(np.float32)) - posed.joints[0, 0]
        vertices = posed.vertices[0] + transl
        normals = vertex_normals(vertices, self._faces)
        inflation = torch.from_numpy(person.outfit.inflation.astype(np.float32))
        surface = vertices + normals * inflation[:, None]
        return Placed(person, transl, posed.joints[0, :24] + transl, surface, normals)

    @torch.no_grad()
    def _landmarks(self, placed: Placed) -> Float[np.ndarray, "27 3"]:
        rotmat = torch.from_numpy(placed.person.rotmat.astype(np.float32))[None]
        betas = torch.from_numpy(placed.person.betas.astype(np.float32))[None]
        points: np.ndarray = (body_landmarks(self.body, rotmat, betas)[0] + placed.transl).numpy()
        return points

    def _companion(self, rng: np.random.Generator, placed: Placed) -> Placed | None:
        """Draw another person beside, behind or in front of this one, or nobody."""
        if rng.random() >= self.config.photo.companion:
            return None
        side = rng.uniform(*_COMPANION_SIDE) * (1 if rng.random() < 0.5 else -1)
        offset = np.array([side, rng.normal() * 0.08, rng.uniform(*_COMPANION_DEPTH)])
        pelvis = placed.joints[0].numpy() + offset
        pelvis[2] = max(pelvis[2], _NEAREST)
        return self._place(sample_person(rng, self.pool, self.wardrobe, self.config), pelvis)

    def _props(self, index: int, placed: Placed) -> Props | None:
        """Draw floor and seat, or nothing; from a seed branch of their own."""
        if self.config.ground <= 0:
            return None
        rng = np.random.default_rng(
            [self.config.seed, SPLITS.index(self.split), index, _PROPS_BRANCH]
        )
        if rng.random() >= self.config.ground:
            return None
        return sample_props(
            rng,
            placed.person.up,
            placed.joints.numpy().astype(np.float64),
            placed.surface.numpy().astype(np.float64),
            self.wardrobe.seat_rows,
        )

    def _paint_people(self, scene: Scene) -> tuple[Float[np.ndarray, "S S 3"], list[Seen]]:
        """Draw floor and seat, then the people, farther ones first.

        People who touch are not told apart by pixel: the one whose pelvis is nearer covers.

        Returns:
            Levels in [0, 255], and how everybody is seen, the labelled person first.
        """
        picture = scene.background.astype(np.float32)
        props = self._draw_props(scene)
        if props is not None:
            picture = _over(picture, *props[:2])
        people = [scene.placed] if scene.other is None else [scene.placed, scene.other]
        seen: list[Seen] = []
        for placed in people[::-1] if scene.other_is_behind else people:
            coverage, depth = self._paint(picture, placed, scene)
            front = np.zeros_like(coverage)
            if props is not None:
                front = props[1] * (props[2] < depth)
                picture = _over(picture, props[0], front)
            # Whoever was drawn before is farther away, and hidden where this one is.
            seen = [one._replace(front=np.maximum(one.front, coverage)) for one in seen]
            seen.append(Seen(placed, coverage, depth, front))
        return picture, seen[::-1] if scene.other_is_behind else seen

    def _draw_props(self, scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        if scene.props is None:
            return None
        looks = scene.lights, scene.texture, self.config.size, self.config.supersample
        return scene.props.draw(scene.camera, *looks)

    def _paint(
        self,
        picture: np.ndarray,
        placed: Placed,
        scene: Scene,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw one person into ``picture``, in place; return coverage and depth."""
        config, surface, camera = self.config, placed.surface, scene.camera
        size = config.size
        pixels = (camera.project(surface.numpy()) + 1) * (size / 2)
        fields = torch.from_numpy(placed.person.outfit.fields.T.astype(np.float32))
        drawn = rasterize(
            torch.from_numpy(np.column_stack([pixels, surface[:, 2].numpy()]).astype(np.float32)),
            self._faces,
            torch.cat([placed.normals, self._rest, fields], dim=1),
            height=size,
            width=size,
            samples=config.supersample,
            perspective=True,
        )
        coverage, depth = drawn.coverage.numpy(), drawn.depth.numpy()
        rows, columns = np.nonzero(coverage)
        if len(rows):
            share = coverage[rows, columns][:, None]
            values = drawn.image.numpy()[rows, columns] / share
            softness = max(0.003, 2 / (camera.focal * size) * float(surface[:, 2].mean()))
            normals, rest, layers = np.split(values, (3, 6), axis=1)
            looks = placed.person.outfit, scene.lights, scene.texture
            colour = shade(normals, rest, layers, *looks, softness)
            picture[rows, columns] = picture[rows, columns] * (1 - share) + 255 * colour * share
        return coverage, depth

    def background(self, rng: np.random.Generator) -> UInt8[np.ndarray, "S S 3"]:
        """Draw what is behind the people, perhaps out of focus."""
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
    motion: str | Path | None,
    split: Split,
    *,
    backgrounds: str | Path | None = None,
    config: SynthConfig | None = None,
) -> Renderer:
    """Build a renderer from a folder of motion capture and one of photographs.

    Without motion capture, poses are drawn from the pose prior that ships with the package.
    """
    pool = sample_prior_poses(split) if motion is None else load_motion(motion, split)
    return Renderer(body, pool, split, Backgrounds(backgrounds), config)


def _over(
    picture: Float[np.ndarray, "S S 3"],
    levels: Float[np.ndarray, "S S 3"],
    coverage: Float[np.ndarray, "S S"],
) -> Float[np.ndarray, "S S 3"]:
    mixed: np.ndarray = picture * (1 - coverage[..., None]) + levels * coverage[..., None]
    return mixed


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
    front: Float[np.ndarray, "S S"],
    photo_area: Bool[np.ndarray, "S S"],
) -> Float[np.ndarray, "27 3"]:
    """Project landmarks and say which of them can be seen."""
    size = len(depth)
    flat = camera.project(landmarks)
    pixel = np.rint((flat + 1) * (size / 2)).astype(np.int64)
    inside = ((pixel >= 0) & (pixel < size)).all(1)
    column, row = np.clip(pixel, 0, size - 1).T
    inside &= photo_area[row, column]
    hidden = landmarks[:, 2] > depth[row, column] + _HIDDEN_DEPTH
    hidden |= front[row, column] > 0.5
    seen = np.where(inside, np.where(hidden, 1, 2), 0)
    return np.column_stack([flat, seen]).astype(np.float32)
