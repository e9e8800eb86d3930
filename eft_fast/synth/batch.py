"""Many scenes drawn at once, on the CPU or a GPU: the pictures of ``Renderer`` within rounding.

Scenes come from ``Renderer.scene``, or, where they must not wait for the CPU, from
``synth.stream``. Nothing here draws a random number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from eft_fast.body import Smpl
from eft_fast.ops.raster import rasterize
from eft_fast.synth.batch_photo import Developments, develop_batch, stack_developments
from eft_fast.synth.batch_shade import OutfitTable, PixelLights, make_outfit_table, shade_rows
from eft_fast.synth.landmarks import body_landmarks
from eft_fast.synth.render import HIDDEN_DEPTH
from eft_fast.synth.sample import Placed, Scene


@dataclass(frozen=True, eq=False)
class SceneBatch:
    """B scenes; P people in all, each in one of the pictures.

    Attributes:
        owner: Picture of each person; the first B people are those who are labelled, in order.
        is_behind: Whether somebody is drawn before the labelled person of the picture.
        rotmat: Rotations relative to the parent; the root's is in the camera frame.
        betas: Shape coefficients.
        pelvis: Where the pelvis joint is, camera frame, metres.
        outfits: Looks.
        camera: Focal length in half crop sides, and principal point in [-1, 1].
        limits: Left, upper, right and lower border of the photo.
        lights: Lights of each picture.
        texture: Picture that patterns on its people read.
        background: What is behind the people, levels in [0, 255].
        occluders: Coverage of what is in front of them.
        fill: Look of that, levels in [0, 255].
        developments: What happens to the drawn pictures.
    """

    owner: Int[Tensor, " P"]
    is_behind: Bool[Tensor, " P"]
    rotmat: Float[Tensor, "P 24 3 3"]
    betas: Float[Tensor, "P 10"]
    pelvis: Float[Tensor, "P 3"]
    outfits: OutfitTable
    camera: Float[Tensor, "B 3"]
    limits: Float[Tensor, "B 4"]
    lights: PixelLights
    texture: UInt8[Tensor, "B T T 3"]
    background: Float[Tensor, "B S S 3"]
    occluders: Float[Tensor, "B S S"]
    fill: Float[Tensor, "B S S 3"]
    developments: Developments

    def __len__(self) -> int:
        return len(self.camera)


class SynthBatch(NamedTuple):
    """Pictures and labels; the meaning of each field is that of ``SynthSample``."""

    image: UInt8[Tensor, "B S S 3"]
    rotmat: Float[Tensor, "B 24 3 3"]
    betas: Float[Tensor, "B 10"]
    transl: Float[Tensor, "B 3"]
    joints: Float[Tensor, "B 24 3"]
    landmarks: Float[Tensor, "B 27 3"]
    landmarks_2d: Float[Tensor, "B 27 3"]
    camera: Float[Tensor, "B 3"]


class PosedPeople(NamedTuple):
    """Dressed people before the camera; metres, camera frame."""

    transl: Float[Tensor, "P 3"]
    joints: Float[Tensor, "P 24 3"]
    surface: Float[Tensor, "P V 3"]
    normals: Float[Tensor, "P V 3"]


class BatchRenderer:
    """Draws scenes of one body model on the device that the body is on.

    Args:
        body: The body model.
        rest: Its vertices at rest, which textures hang on: ``Wardrobe.rest``.
        size: Side of the pictures, pixels.
        supersample: Samples per pixel and axis.
    """

    def __init__(
        self, body: Smpl, rest: Float[np.ndarray, "V 3"], *, size: int, supersample: int
    ) -> None:
        self.body = body
        self.size = size
        self.supersample = supersample
        self.device = body.v_template.device
        faces = np.asarray(body.faces, dtype=np.int32)
        self._rest = torch.from_numpy(rest.astype(np.float32)).to(self.device)
        self._faces = torch.from_numpy(faces).to(self.device)
        self._around = faces_around(faces, len(rest)).to(self.device)

    @torch.no_grad()
    def draw(self, scenes: SceneBatch) -> SynthBatch:
        """Draw and label."""
        count = len(scenes)
        people = self.pose(scenes.rotmat, scenes.betas, scenes.pelvis, scenes.outfits.inflation)
        landmarks = body_landmarks(self.body, scenes.rotmat[:count], scenes.betas[:count])
        landmarks = landmarks + people.transl[:count, None]
        levels, depth, front = self._paint(scenes, people)
        mask = scenes.occluders[..., None]
        levels = levels * (1 - mask) + scenes.fill * mask
        front = torch.maximum(front, scenes.occluders)
        area = photo_area(scenes.limits, self.size)
        image = develop_batch(levels, scenes.developments) * area[..., None]
        flat = project(landmarks, scenes.camera)
        return SynthBatch(
            image=image,
            rotmat=scenes.rotmat[:count],
            betas=scenes.betas[:count],
            transl=people.transl[:count],
            joints=people.joints[:count],
            landmarks=landmarks,
            landmarks_2d=_label(landmarks, flat, depth, front, area),
            camera=scenes.camera,
        )

    @torch.no_grad()
    def pose(
        self,
        rotmat: Float[Tensor, "P 24 3 3"],
        betas: Float[Tensor, "P 10"],
        pelvis: Float[Tensor, "P 3"],
        inflation: Float[Tensor, "P V"],
    ) -> PosedPeople:
        """Pose and dress people."""
        posed = self.body(betas, rotmat[:, 1:], rotmat[:, :1], pose2rot=False)
        transl = pelvis - posed.joints[:, 0]
        vertices = posed.vertices + transl[:, None]
        normals = self._normals(vertices)
        surface = vertices + normals * inflation.to(normals)[..., None]
        return PosedPeople(transl, posed.joints[:, :24] + transl[:, None], surface, normals)

    def _normals(self, vertices: Float[Tensor, "P V 3"]) -> Float[Tensor, "P V 3"]:
        """``ops.raster.vertex_normals`` by gathering: adding up by index is no fixed order."""
        a, b, c = (vertices[:, self._faces[:, k].long()] for k in range(3))
        of_face = torch.linalg.cross(b - a, c - a)
        nothing = of_face.new_zeros(len(vertices), 1, 3)
        padded = torch.cat([of_face, nothing], 1)
        total = padded[:, self._around[:, 0]]
        for k in range(1, self._around.shape[1]):
            total = total + padded[:, self._around[:, k]]
        return torch.nn.functional.normalize(total, dim=-1, eps=1e-20)

    def _paint(
        self, scenes: SceneBatch, people: PosedPeople
    ) -> tuple[Float[Tensor, "B S S 3"], Float[Tensor, "B S S"], Float[Tensor, "B S S"]]:
        """Draw the people, farther ones first: levels, depth, and coverage of who is in front."""
        size, owner, count = self.size, scenes.owner, len(scenes)
        pixels = (project(people.surface, scenes.camera[owner]) + 1) * (size / 2)
        fields = scenes.outfits.fields.to(pixels)
        rest = self._rest.expand(len(owner), -1, -1)
        drawn = rasterize(
            torch.cat([pixels, people.surface[..., 2:]], -1),
            self._faces,
            torch.cat([people.normals, rest, fields], -1),
            height=size,
            width=size,
            samples=self.supersample,
            perspective=True,
        )
        person, row, column = torch.nonzero(drawn.coverage, as_tuple=True)
        share = drawn.coverage[person, row, column][:, None]
        mean_z = people.surface[..., 2].mean(1)
        softness = (2 / (scenes.camera[owner, 0] * size) * mean_z).clamp_min(0.003)
        lights = PixelLights(*(part[owner] for part in scenes.lights))
        colour = shade_rows(
            drawn.image[person, row, column] / share,
            person,
            scenes.outfits,
            lights,
            scenes.texture[owner],
            softness,
        )
        levels = scenes.background.clone()
        is_labelled = torch.arange(len(owner), device=self.device) < count
        for who in (scenes.is_behind, is_labelled, ~scenes.is_behind & ~is_labelled):
            # At most one person of a picture is drawn at a time, so no pixel is written twice.
            chosen = who[person]
            at = owner[person[chosen]], row[chosen], column[chosen]
            part = share[chosen]
            levels[at] = levels[at] * (1 - part) + 255 * colour[chosen] * part
        front = torch.zeros_like(drawn.coverage[:count])
        in_front = torch.nonzero(~scenes.is_behind & ~is_labelled)[:, 0]
        front[owner[in_front]] = drawn.coverage[in_front]
        return levels, drawn.depth[:count], front


def faces_around(faces: Int[np.ndarray, "F 3"], count: int) -> Int[Tensor, "V K"]:
    """Return the faces around each vertex in ascending order, padded with the number F."""
    vertex = faces.reshape(-1)
    order = np.argsort(vertex, kind="stable")
    number = np.bincount(vertex, minlength=count)
    first = np.concatenate([[0], np.cumsum(number)[:-1]])
    place = np.arange(len(vertex)) - np.repeat(first, number)
    around = np.full((count, max(int(number.max(initial=0)), 1)), len(faces), dtype=np.int64)
    around[vertex[order], place] = order // 3
    return torch.from_numpy(around)


def project(points: Float[Tensor, "B N 3"], camera: Float[Tensor, "B 3"]) -> Float[Tensor, "B N 2"]:
    """Project metres to [-1, 1] of the crop; compare ``CropCamera.project``."""
    return camera[:, None, :1] * points[..., :2] / points[..., 2:] + camera[:, None, 1:]


def photo_area(limits: Float[Tensor, "B 4"], size: int) -> Bool[Tensor, "B S S"]:
    """Return which pixels lie inside the photo."""
    u = torch.arange(size, device=limits.device, dtype=torch.float64) / (size / 2) - 1
    left, upper, right, lower = limits.double()[..., None].unbind(1)
    rows, columns = (u >= upper) & (u <= lower), (u >= left) & (u <= right)
    return rows[:, :, None] & columns[:, None]


def stack_scenes(scenes: Sequence[Scene], size: int, device: torch.device) -> SceneBatch:
    """Move scenes of ``Renderer.scene`` to a device.

    Raises:
        ValueError: If a scene has a floor or a seat, which batches do not draw.
    """
    if any(scene.props is not None for scene in scenes):
        raise ValueError(
            "stack_scenes: scenes without floor and seat expected, got one with them; render with "
            "ground=0"
        )
    others = [(row, s.other) for row, s in enumerate(scenes) if s.other is not None]
    people: list[Placed] = [scene.placed for scene in scenes]
    people += [other for _, other in others]

    def move(rows: Sequence[np.ndarray], dtype: type = np.float32) -> Tensor:
        return torch.from_numpy(np.stack(rows).astype(dtype)).to(device)

    lights = PixelLights(
        move([np.asarray(s.lights.ambient) for s in scenes]),
        move([s.lights.directions for s in scenes]),
        move([s.lights.colours for s in scenes]),
    )
    nothing = np.zeros((size, size), np.float32)
    square = (size, size, 3)
    behind = [False] * len(scenes) + [scenes[row].other_is_behind for row, _ in others]
    owner = [*range(len(scenes)), *(row for row, _ in others)]
    return SceneBatch(
        owner=torch.tensor(owner, device=device),
        is_behind=torch.tensor(behind, device=device),
        rotmat=move([p.person.rotmat for p in people]),
        betas=move([p.person.betas for p in people]),
        pelvis=move([p.pelvis for p in people]),
        outfits=make_outfit_table([p.person.outfit for p in people], device),
        camera=move([np.array([s.camera.focal, *s.camera.shift]) for s in scenes]),
        limits=move([s.camera.limits for s in scenes], np.float64),
        lights=lights,
        texture=move([s.texture for s in scenes], np.uint8),
        background=move([s.background for s in scenes]),
        occluders=move([nothing if s.occluders is None else s.occluders for s in scenes]),
        fill=move([np.broadcast_to(0.0 if s.fill is None else s.fill, square) for s in scenes]),
        developments=stack_developments([s.development for s in scenes], device),
    )


def _label(
    landmarks: Float[Tensor, "B 27 3"],
    flat: Float[Tensor, "B 27 2"],
    depth: Float[Tensor, "B S S"],
    front: Float[Tensor, "B S S"],
    area: Bool[Tensor, "B S S"],
) -> Float[Tensor, "B 27 3"]:
    """Say which landmarks can be seen; compare ``synth.render``."""
    batch, size = depth.shape[:2]
    pixel = ((flat + 1) * (size / 2)).round().long()
    inside = ((pixel >= 0) & (pixel < size)).all(-1)
    column, row = pixel.clamp(0, size - 1).unbind(-1)
    picture = torch.arange(batch, device=depth.device)[:, None]
    inside &= area[picture, row, column]
    hidden = landmarks[..., 2] > depth[picture, row, column] + HIDDEN_DEPTH
    hidden |= front[picture, row, column] > 0.5
    seen = torch.where(inside, torch.where(hidden, 1.0, 2.0), 0.0)
    return torch.cat([flat, seen[..., None]], -1)
