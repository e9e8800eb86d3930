"""Endless batches: reproducible, of the options asked for, with labels that fit the pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eft_fast.synth import CameraConfig, PhotoConfig, Renderer, SynthConfig
from eft_fast.synth.landmarks import NUM_COCO
from eft_fast.synth.poses import mirror_rotations
from eft_fast.synth.stream import BankSize, SynthBatches, _Dice

BANK = BankSize(poses=60, outfits=6, pictures=6)
CPU = torch.device("cpu")
WHOLE = CameraConfig(cut_hips=0, cut_elbows=0, cut_knees=0, cut_side=0)
CLEAN = PhotoConfig(occluder=0, table=0, companion=0, blur=0, resample=0, jpeg=0, noise=0)


def make(renderer: Renderer, **changes: object) -> SynthBatches:
    config = replace(SynthConfig(size=64, supersample=1), **changes)  # type: ignore[arg-type]
    of = Renderer(renderer.body, renderer.pool, "train", config=config)
    return SynthBatches(of, CPU, batch=6, bank=BANK)


@pytest.fixture(scope="module")
def stream(renderer: Renderer) -> SynthBatches:
    return make(renderer)


def test_a_batch_depends_on_its_number_only(stream: SynthBatches, renderer: Renderer) -> None:
    first, second = stream.get(3), stream.get(4)
    again = make(renderer).get(3)
    for name, one, other in zip(first._fields, first, again, strict=True):
        assert torch.equal(one, other), name
    assert not torch.equal(first.image, second.image)
    for number, batch in zip(range(2), stream, strict=False):
        assert torch.equal(batch.image, stream.get(number).image)


def test_shapes_and_types(stream: SynthBatches) -> None:
    batch = stream.get(0)
    assert batch.image.shape == (6, 64, 64, 3)
    assert batch.image.dtype == torch.uint8
    assert batch.landmarks_2d.shape == (6, 27, 3)
    for name in ("rotmat", "betas", "transl", "joints", "landmarks", "landmarks_2d", "camera"):
        field = getattr(batch, name)
        assert field.dtype == torch.float32, name
        assert torch.isfinite(field).all(), name
    turns = batch.rotmat @ batch.rotmat.transpose(2, 3)
    torch.testing.assert_close(turns, torch.eye(3).expand_as(turns), rtol=0, atol=1e-5)
    assert torch.linalg.det(batch.rotmat).min() > 0.99


def test_labels_lie_on_the_people(renderer: Renderer) -> None:
    """Whoever stands before a black background is where the landmarks say, mirrored or not."""
    clean = make(renderer, photo=CLEAN, camera=WHOLE)
    near, total = 0, 0
    for number in range(4):
        scenes = clean.scenes(number)
        black = replace(scenes, background=torch.zeros_like(scenes.background))
        batch = clean._draw.draw(black)
        for k in range(6):
            rows, columns = torch.nonzero(batch.image[k].sum(-1) > 0, as_tuple=True)
            pixels = (batch.landmarks_2d[k, :NUM_COCO, :2] + 1) * 32
            gap = torch.hypot(pixels[:, :1] - columns, pixels[:, 1:] - rows).amin(1)
            near, total = near + int((gap < 2).sum()), total + NUM_COCO
    assert near / total > 0.97


def test_whole_people_fill_the_crop(renderer: Renderer) -> None:
    clean = make(renderer, photo=CLEAN, camera=WHOLE)
    for number in range(3):
        flat = clean.get(number).landmarks_2d[..., :2]
        extent = (flat.amax(1) - flat.amin(1)).amax(1) / 2
        assert (extent > 0.45).all()
        assert (extent < 1.0).all()


@pytest.mark.parametrize(("kind", "row"), [("cut_hips", 11), ("cut_knees", 13)])
def test_cuts_end_the_picture_there(renderer: Renderer, kind: str, row: int) -> None:
    odds = dict.fromkeys(("cut_hips", "cut_elbows", "cut_knees", "cut_side"), 0.0) | {kind: 1.0}
    cut = make(renderer, photo=CLEAN, camera=CameraConfig(frame_edge=1.0, **odds))
    batch = cut.get(0)
    upright = batch.rotmat[:, 0, 1, 1] < -0.7
    assert upright.any()
    feet, line = batch.landmarks_2d[upright, 15:17], batch.landmarks_2d[upright, row, 1]
    assert (feet[..., 2] == 0).all()
    assert (line.abs() < 1.2).all()
    # Beyond the photo is black.
    assert (batch.image[upright][:, -2:] == 0).flatten(1).all(1).float().mean() > 0.5


def test_other_people_are_drawn(renderer: Renderer) -> None:
    photo = replace(CLEAN, companion=1.0)
    crowd = make(renderer, photo=photo, camera=WHOLE)
    scenes = crowd.scenes(0)
    assert len(scenes.owner) == 12
    alone = replace(
        scenes,
        owner=scenes.owner[:6], is_behind=scenes.is_behind[:6], rotmat=scenes.rotmat[:6],
        betas=scenes.betas[:6], pelvis=scenes.pelvis[:6],
        outfits=scenes.outfits.take(torch.arange(6)),
    )  # fmt: skip
    both, single = crowd._draw.draw(scenes), crowd._draw.draw(alone)
    changed = (both.image.int() - single.image.int()).abs().amax(-1) > 40
    assert (changed.flatten(1).float().mean(1) > 0.003).sum() >= 3
    assert (both.landmarks_2d[..., 2] <= single.landmarks_2d[..., 2]).all()


def test_odds_are_those_of_the_options(renderer: Renderer) -> None:
    stream = make(renderer)
    stream.batch = 200
    settings = stream._developments(_Dice(0, CPU))
    photo = stream.config.photo
    for share, odds in (
        (settings.blur > 0, photo.blur),
        (settings.small > 0, photo.resample),
        (settings.quality > 0, photo.jpeg),
    ):
        assert share.float().mean() == pytest.approx(odds, abs=0.12)
    assert settings.noise.std() < photo.noise
    assert np.isfinite(settings.gain.numpy()).all()


def test_poses_are_those_of_the_bank_or_their_mirror_images(stream: SynthBatches) -> None:
    bank = stream._bank.rotmat[:, 1:].numpy()
    mirrored = np.stack([mirror_rotations(pose)[1:] for pose in stream._bank.rotmat.numpy()])
    kinds = []
    for pose in torch.cat([stream.get(number).rotmat for number in range(3)])[:, 1:].numpy():
        gaps = [np.abs(of - pose).max((1, 2, 3)).min() for of in (bank, mirrored)]
        assert min(gaps) < 1e-5
        kinds.append(int(np.argmin(gaps)))
    assert 0 < sum(kinds) < len(kinds)
