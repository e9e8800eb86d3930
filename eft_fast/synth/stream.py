"""Endless batches of new pictures, drawn where they are used.

``Renderer`` draws every number of a scene on the CPU, which takes longer than a GPU needs for the
picture. A stream draws poses, looks and backgrounds once, by the same code, into a bank that lies
on the device, and then only puts them together anew: other people in other clothes before other
backgrounds, mirrored, rolled, under other lights, cameras and crops.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from eft_fast.conventions import NUM_BETAS
from eft_fast.synth import photo
from eft_fast.synth.batch import BatchRenderer, PosedPeople, SceneBatch, SynthBatch
from eft_fast.synth.batch_photo import Developments
from eft_fast.synth.batch_shade import OutfitTable, PixelLights, make_outfit_table
from eft_fast.synth.landmarks import body_landmarks
from eft_fast.synth.motion import SPLITS
from eft_fast.synth.poses import MIRROR, sample_pose
from eft_fast.synth.render import COMPANION_DEPTH, COMPANION_SIDE, NEAREST, Renderer
from eft_fast.synth.scene import CUT_ROWS, sample_lights

#: First number of the bank's seed, so that no picture of ``Renderer`` shares its random numbers.
_BANK_BRANCH: Final = 104_729
#: Roll of the camera beyond that of the stored pose, degrees.
_ROLL_SIGMA: Final = 5.0
#: A surface point of so many decides about the crop.
_POINT_STRIDE: Final = 7
_TEXTURE: Final = 64  # pixels


@dataclass(frozen=True)
class BankSize:
    """How much a stream keeps. 256 outfits of the open body take 120 MB, 256 pictures 50 MB.

    Attributes:
        poses: Poses with their view.
        outfits: Clothes, hair and skin.
        pictures: Backgrounds, textures and shapes of occluders, each.
    """

    poses: int = 20_000
    outfits: int = 256
    pictures: int = 256


class _Bank(NamedTuple):
    rotmat: Float[Tensor, "N 24 3 3"]
    outfits: OutfitTable
    backgrounds: UInt8[Tensor, "M S S 3"]
    textures: UInt8[Tensor, "M T T 3"]
    occluders: UInt8[Tensor, "M S S"]
    lights: PixelLights


class SynthBatches:
    """Batches by their number: batch i depends on the seed, the bank and i only.

    The bank and every choice are the same on all devices; the noise of the pictures is drawn on
    the device and differs between CPU and GPU.

    Args:
        renderer: Whose poses, wardrobe, backgrounds and options to use. Its body stays where it
            is; a copy moves to the device.
        device: Where to draw.
        batch: Pictures of a batch.
        bank: How much to keep.
        seed: Seed of the bank and of the batches.

    Example:
        >>> stream = SynthBatches(renderer, torch.device("cuda"), batch=256)
        >>> for batch in stream:
        ...     train(batch.image, batch.rotmat)
    """

    def __init__(
        self,
        renderer: Renderer,
        device: torch.device,
        *,
        batch: int = 64,
        bank: BankSize | None = None,
        seed: int = 0,
    ) -> None:
        self.config = renderer.config
        self.device = device
        self.batch = batch
        self.seed = seed
        body = renderer.body
        if body.v_template.device != device:
            body = deepcopy(body).to(device)
        self.body = body
        self._draw = BatchRenderer(
            body,
            renderer.wardrobe.rest,
            size=self.config.size,
            supersample=self.config.supersample,
        )
        self._bank = _fill_bank(renderer, bank or BankSize(), seed, device)

    def __iter__(self) -> Iterator[SynthBatch]:
        number = 0
        while True:
            yield self.get(number)
            number += 1

    def get(self, number: int) -> SynthBatch:
        """Draw batch ``number``."""
        return self._draw.draw(self.scenes(number))

    @torch.no_grad()
    def scenes(self, number: int) -> SceneBatch:
        """Put the scenes of batch ``number`` together."""
        config, bank, count = self.config, self._bank, self.batch
        dice = _Dice(self.seed * 1_000_003 + number, self.device)
        has_other = dice.chance(count, config.photo.companion)
        # Which pictures have two people is known on the CPU: the GPU need not be waited for.
        pairs = torch.nonzero(has_other)[:, 0]
        people = count + len(pairs)
        owner = torch.cat([torch.arange(count), pairs]).to(self.device)
        rotmat = self._poses(dice, people)
        betas = (dice.normal(people, NUM_BETAS) * config.beta_sigma).clamp(-3, 3)
        outfits = bank.outfits.take(dice.number(people, len(bank.outfits.kind)))
        near, far = config.camera.distance_m
        pelvis = torch.zeros(people, 3, device=self.device)
        distance = torch.exp(dice.uniform(count, low=math.log(near), high=math.log(far)))
        pelvis[:, 2] = distance[owner]
        offset = _offset(dice, people - count)
        pelvis[count:] += offset
        pelvis[count:, 2].clamp_(min=NEAREST)
        behind = torch.zeros(people, dtype=torch.bool, device=self.device)
        behind[count:] = pelvis[count:, 2] >= distance[owner[count:]]
        posed = self._draw.pose(
            rotmat[:count], betas[:count], pelvis[:count], outfits.inflation[:count]
        )
        landmarks = body_landmarks(self.body, rotmat[:count], betas[:count])
        camera, limits = self._cameras(dice, posed, landmarks + posed.transl[:, None])
        picks = dice.number(count, len(bank.backgrounds))
        occluders = bank.occluders[dice.number(count, len(bank.occluders))].float() / 255
        has_occluder = dice.chance(
            count, 1 - (1 - config.photo.occluder) * (1 - config.photo.table)
        )
        occluders = occluders * has_occluder.to(self.device)[:, None, None]
        light = dice.number(count, len(bank.lights.ambient))
        return SceneBatch(
            owner=owner,
            is_behind=behind,
            rotmat=rotmat,
            betas=betas,
            pelvis=pelvis,
            outfits=outfits,
            camera=camera,
            limits=limits,
            lights=PixelLights(*(part[light] for part in bank.lights)),
            texture=bank.textures[dice.number(count, len(bank.textures))],
            background=_turn(dice, bank.backgrounds[picks].float()),
            occluders=_turn(dice, occluders),
            fill=_turn(dice, bank.backgrounds[dice.number(count, len(bank.backgrounds))].float()),
            developments=self._developments(dice),
        )

    def _poses(self, dice: _Dice, people: int) -> Float[Tensor, "P 24 3 3"]:
        """Draw poses of the bank, mirrored and rolled."""
        rotmat = self._bank.rotmat[dice.number(people, len(self._bank.rotmat))]
        reverse = torch.tensor([-1.0, 1.0, 1.0], device=self.device)
        mirrored = reverse[:, None] * rotmat[:, list(MIRROR)] * reverse
        which = dice.chance(people, 0.5).to(self.device)
        rotmat = torch.where(which[:, None, None, None], mirrored, rotmat)
        roll = torch.deg2rad(dice.normal(people) * _ROLL_SIGMA)
        c, s, zero, one = roll.cos(), roll.sin(), torch.zeros_like(roll), torch.ones_like(roll)
        turn = torch.stack([c, -s, zero, s, c, zero, zero, zero, one], 1).view(-1, 3, 3)
        return torch.cat([(turn @ rotmat[:, 0])[:, None], rotmat[:, 1:]], 1)

    def _cameras(
        self, dice: _Dice, posed: PosedPeople, landmarks: Float[Tensor, "B 27 3"]
    ) -> tuple[Float[Tensor, "B 3"], Float[Tensor, "B 4"]]:
        """Draw a crop around each person, or around a part; compare ``scene.sample_camera``."""
        config = self.config.camera
        points = posed.surface[:, ::_POINT_STRIDE]
        flat = points[..., :2] / points[..., 2:]
        keep, border = self._cut(dice, flat, landmarks[..., :2] / landmarks[..., 2:])
        low = torch.where(keep[..., None], flat, torch.inf).amin(1)
        high = torch.where(keep[..., None], flat, -torch.inf).amax(1)
        count = len(flat)
        side = (high - low).amax(1).clamp_min(1e-3)
        side = side * config.margin * torch.exp(dice.normal(count) * config.margin_sigma)
        centre = (low + high) / 2 + dice.normal(count, 2) * config.shift_sigma * side[:, None]
        focal = 2 / side
        shift = -focal[:, None] * centre
        limits = border * focal[:, None] + torch.cat([shift, shift], 1)
        is_open = dice.chance(count, 1 - config.frame_edge).to(self.device)
        endless = limits.new_tensor([-torch.inf, -torch.inf, torch.inf, torch.inf])
        limits = torch.where(is_open[:, None], endless, limits)
        return torch.cat([focal[:, None], shift], 1), limits

    def _cut(
        self, dice: _Dice, flat: Float[Tensor, "B N 2"], landmarks: Float[Tensor, "B 27 2"]
    ) -> tuple[Bool[Tensor, "B N"], Float[Tensor, "B 4"]]:
        """Choose the points that the box is drawn around, and the border where they were cut."""
        config, count = self.config.camera, len(flat)
        odds = (config.cut_hips, config.cut_elbows, config.cut_knees, config.cut_side)
        chance = dice.uniform(count)
        height = flat[..., 1].amax(1) - flat[..., 1].amin(1)
        jitter = dice.uniform(count, low=-0.03, high=0.10) * height
        ordered = flat[..., 0].sort(1).values
        share = torch.where(
            dice.chance(count, 0.5).to(self.device),
            dice.uniform(count, low=0.55, high=0.9),
            dice.uniform(count, low=0.1, high=0.45),
        )
        place = (share * (flat.shape[1] - 1)).round().long()
        line = ordered.gather(1, place[:, None])
        is_right = share > 0.5
        keep = torch.ones(flat.shape[:2], dtype=torch.bool, device=self.device)
        border = flat.new_tensor([-torch.inf, -torch.inf, torch.inf, torch.inf]).repeat(count, 1)
        first = 0.0
        for kind, odd in zip(("hips", "elbows", "knees", "side"), odds, strict=True):
            chosen = (chance >= first) & (chance < first + odd)
            first += odd
            limit = border.clone()
            if kind == "side":
                inside = torch.where(is_right[:, None], flat[..., 0] < line, flat[..., 0] > line)
                limit[:, 2] = torch.where(is_right, line[:, 0], torch.inf)
                limit[:, 0] = torch.where(is_right, -torch.inf, line[:, 0])
            else:
                level = landmarks[:, list(CUT_ROWS[kind]), 1].mean(1) + jitter
                inside = flat[..., 1] < level[:, None]
                limit[:, 3] = level
            # Somebody who lies or hangs has little above that line: they are shown whole.
            chosen = chosen & (inside.float().mean(1) >= 0.2)
            keep = torch.where(chosen[:, None], inside, keep)
            border = torch.where(chosen[:, None], limit, border)
        return keep, border

    def _developments(self, dice: _Dice) -> Developments:
        """Draw what ``photo.sample_development`` draws."""
        options, count, size = self.config.photo, self.batch, self.config.size
        exposure = torch.exp(dice.normal(count, 1) * 0.12)
        blurred = dice.chance(count, options.blur).to(self.device)
        shrunk = dice.chance(count, options.resample).to(self.device)
        coded = dice.chance(count, options.jpeg).to(self.device)
        small = (dice.uniform(count, low=0.35, high=0.78) * size).long()
        quality = dice.uniform(count, low=options.jpeg_quality[0], high=options.jpeg_quality[1])
        sigma = dice.uniform(count, low=0, high=options.noise)
        return Developments(
            gain=exposure * (1 + dice.normal(count, 3) * 0.04),
            gamma=torch.exp(dice.normal(count) * 0.15),
            blur=dice.uniform(count, low=0.3, high=1.6) * blurred,
            small=small * shrunk,
            noise=dice.noise(count, size, size, 3) * sigma[:, None, None, None],
            quality=quality.long() * coded,
        )


class _Dice:
    """Random numbers of one batch: drawn on the CPU, where all devices agree, but for noise."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        self._cpu = torch.Generator().manual_seed(seed)
        self._local = torch.Generator(device).manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return (torch.rand(shape, generator=self._cpu) * (high - low) + low).to(self._device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._cpu).to(self._device)

    def number(self, count: int, below: int) -> Int[Tensor, " N"]:
        return torch.randint(below, (count,), generator=self._cpu).to(self._device)

    def chance(self, count: int, odds: float) -> Bool[Tensor, " N"]:
        """True with probability ``odds``; stays on the CPU."""
        return torch.rand(count, generator=self._cpu) < odds

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._local, device=self._device)


def _offset(dice: _Dice, count: int) -> Float[Tensor, "N 3"]:
    """Where the other people stand, from the labelled ones."""
    side = dice.uniform(count, low=COMPANION_SIDE[0], high=COMPANION_SIDE[1])
    side = torch.where(dice.uniform(count) < 0.5, side, -side)
    depth = dice.uniform(count, low=COMPANION_DEPTH[0], high=COMPANION_DEPTH[1])
    return torch.stack([side, dice.normal(count) * 0.08, depth], 1)


def _turn(dice: _Dice, pictures: Tensor) -> Tensor:
    """Mirror every other picture, so that a small bank repeats itself less."""
    which = (dice.uniform(len(pictures)) < 0.5).view(-1, *[1] * (pictures.dim() - 1))
    return torch.where(which, pictures.flip(2), pictures)


def _fill_bank(renderer: Renderer, size: BankSize, seed: int, device: torch.device) -> _Bank:
    """Draw the bank by the code that single pictures are drawn by."""
    config = renderer.config
    rng = np.random.default_rng([_BANK_BRANCH, seed, SPLITS.index(renderer.split)])
    poses = [sample_pose(rng, renderer.pool, config.pose) for _ in range(size.poses)]
    outfits = [renderer.wardrobe.draw(rng) for _ in range(size.outfits)]
    textures = [renderer.backgrounds.draw(rng, _TEXTURE) for _ in range(size.pictures)]
    backgrounds = [renderer.background(rng) for _ in range(size.pictures)]
    occluders: list[np.ndarray] = []
    while len(occluders) < size.pictures:
        mask = photo.sample_occluders(rng, config.size, config.photo)
        if mask is not None:
            occluders.append(np.rint(255 * mask).astype(np.uint8))
        elif config.photo.occluder == config.photo.table == 0:
            occluders.append(np.zeros((config.size, config.size), np.uint8))
    lights = [sample_lights(rng) for _ in range(size.pictures)]

    def move(rows: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(rows)).to(device)

    return _Bank(
        rotmat=move(poses).float(),
        outfits=make_outfit_table(outfits, device, dtype=torch.float16),
        backgrounds=move(backgrounds),
        textures=move(textures),
        occluders=move(occluders),
        lights=PixelLights(
            torch.tensor([light.ambient for light in lights], device=device),
            move([light.directions for light in lights]).float(),
            move([light.colours for light in lights]).float(),
        ),
    )
