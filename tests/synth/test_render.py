from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from eft_fast.synth import CameraConfig, PhotoConfig, Renderer, SynthConfig, SynthSample
from eft_fast.synth.landmarks import NUM_COCO

CLEAN = PhotoConfig(occluder=0, table=0, companion=0)
WHOLE = CameraConfig(cut_hips=0, cut_elbows=0, cut_knees=0, cut_side=0)


def variant(renderer: Renderer, **changes: object) -> Renderer:
    config = replace(renderer.config, **changes)  # type: ignore[arg-type]
    return Renderer(renderer.body, renderer.pool, renderer.split, config=config)


def same(one: SynthSample, other: SynthSample) -> bool:
    names = [f.name for f in fields(SynthSample)]
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def test_an_image_depends_on_its_number_only(renderer: Renderer) -> None:
    forward = [renderer.render(i) for i in (3, 4, 5)]
    fresh = Renderer(renderer.body, renderer.pool, "train", config=renderer.config)
    backward = [fresh.render(i) for i in (5, 4, 3)][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    assert not np.array_equal(forward[0].image, forward[1].image)


def test_seed_and_split_change_the_image(renderer: Renderer) -> None:
    plain = renderer.render(0)
    assert not np.array_equal(plain.image, variant(renderer, seed=1).render(0).image)
    test = Renderer(renderer.body, renderer.pool, "test", config=renderer.config)
    assert not np.array_equal(plain.image, test.render(0).image)


def test_labels_have_their_shapes_and_types(renderer: Renderer) -> None:
    sample = renderer.render(1)
    assert sample.image.shape == (96, 96, 3)
    assert sample.image.dtype == np.uint8
    assert sample.rotmat.shape == (24, 3, 3)
    assert sample.landmarks_2d.shape == (27, 3)
    for name in ("rotmat", "betas", "transl", "joints", "landmarks", "landmarks_2d", "camera"):
        assert getattr(sample, name).dtype == np.float32, name


def test_labels_agree_with_the_stored_camera(renderer: Renderer) -> None:
    for index in range(8):
        sample = renderer.render(index)
        focal, *shift = sample.camera
        flat = focal * sample.landmarks[:, :2] / sample.landmarks[:, 2:] + shift
        np.testing.assert_allclose(sample.landmarks_2d[:, :2], flat, atol=1e-4)


def test_labels_lie_on_the_silhouette(renderer: Renderer) -> None:
    """COCO landmarks lie in or on the body, so they project onto it, within two pixels."""
    clean = variant(renderer, photo=CLEAN, camera=WHOLE)
    near, total = 0, 0
    for index in range(12):
        sample = clean.render(index)
        rows, columns = np.nonzero(sample.mask)
        pixels = (sample.landmarks_2d[:NUM_COCO, :2] + 1) * 48
        gap = np.hypot(pixels[:, :1] - columns, pixels[:, 1:] - rows).min(1)
        near, total = near + int((gap < 2).sum()), total + NUM_COCO
    assert near / total > 0.98


def test_the_person_is_in_the_picture(renderer: Renderer) -> None:
    """The rendered pixels differ from the same scene's background where the mask says so."""
    clean = variant(renderer, photo=CLEAN, camera=WHOLE)
    for index in range(6):
        mask = clean.render(index).mask
        assert 0.02 < mask.mean() < 0.6
        height, width = (np.ptp(axis) + 1 for axis in np.nonzero(mask))
        # The longer side takes 1 / margin of the crop, give or take its spread.
        assert 0.55 < max(height, width) / 96 < 1.0


def test_landmarks_outside_the_crop_are_marked(renderer: Renderer) -> None:
    cut = variant(renderer, camera=CameraConfig(cut_hips=1, cut_elbows=0, cut_knees=0, cut_side=0))
    outside = 0
    for index in range(8):
        labels = cut.render(index).landmarks_2d
        beyond = (labels[:, :2] < -1.02).any(1) | (labels[:, :2] > 1.02).any(1)
        assert (labels[beyond, 2] == 0).all()
        outside += int(beyond.sum())
    assert outside > 10


def test_beyond_the_photo_is_black_and_unlabelled(renderer: Renderer) -> None:
    camera = CameraConfig(cut_hips=1, cut_elbows=0, cut_knees=0, cut_side=0, frame_edge=1)
    samples = [variant(renderer, camera=camera).render(i) for i in range(12)]
    black_rows = [(s.image == 0).all((1, 2)) for s in samples]
    with_border = [i for i, rows in enumerate(black_rows) if rows[-1]]
    assert len(with_border) >= 6
    for index in with_border:
        first = int(np.argmax(black_rows[index]))
        pixels = (samples[index].landmarks_2d[:, 1] + 1) * 48
        assert (samples[index].landmarks_2d[pixels > first + 1, 2] == 0).all()
        assert not samples[index].mask[first:].any()


def test_occluders_hide_landmarks(renderer: Renderer) -> None:
    clear = variant(renderer, photo=CLEAN, camera=WHOLE)
    covered = variant(renderer, photo=PhotoConfig(occluder=1, table=1, companion=0), camera=WHOLE)
    hidden = 0
    for index in range(6):
        before = clear.render(index).landmarks_2d
        after = covered.render(index).landmarks_2d
        np.testing.assert_array_equal(before[:, :2], after[:, :2])
        assert (after[:, 2] <= before[:, 2]).all()
        hidden += int((after[:, 2] < before[:, 2]).sum())
    assert hidden > 20


def test_another_person_hides_the_labelled_one_or_stands_behind(renderer: Renderer) -> None:
    """Labels and mask are those of the labelled person; pixels change, visibility only falls."""
    alone = variant(renderer, photo=CLEAN, camera=WHOLE)
    joined = variant(renderer, photo=PhotoConfig(occluder=0, table=0, companion=1), camera=WHOLE)
    alone, joined = variant(alone, supersample=1), variant(joined, supersample=1)
    changed, hidden = 0, 0
    for index in range(30):
        before, after = alone.render(index), joined.render(index)
        for name in ("rotmat", "betas", "joints", "landmarks", "camera", "mask"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name), name)
        assert (after.landmarks_2d[:, 2] <= before.landmarks_2d[:, 2]).all()
        gap = np.abs(before.image.astype(int) - after.image.astype(int)).max(2) > 60
        changed += int(gap.mean() > 0.002)
        hidden += int((after.landmarks_2d[:, 2] < before.landmarks_2d[:, 2]).any())
    assert changed >= 10
    assert 1 <= hidden < changed


def test_the_far_side_of_the_body_is_hidden(renderer: Renderer) -> None:
    """Face landmarks are visible on people who face the camera and hidden from behind."""
    clear = variant(renderer, photo=CLEAN, camera=WHOLE, size=48, supersample=1)
    front, back = [], []
    for index in range(80):
        sample = clear.render(index)
        facing = -sample.rotmat[0][2, 2]
        nose = sample.landmarks_2d[0, 2]
        if facing > 0.7:
            front.append(nose)
        elif facing < -0.7:
            back.append(nose)
    assert np.mean(np.equal(front, 2)) > 0.7
    assert np.mean(np.equal(back, 2)) < 0.4


def test_size_and_supersampling_are_options(renderer: Renderer) -> None:
    small = variant(renderer, size=48, supersample=1).render(0)
    assert small.image.shape == (48, 48, 3)
    np.testing.assert_allclose(
        small.landmarks_2d[:, :2], renderer.render(0).landmarks_2d[:, :2], atol=1e-6
    )


def test_golden_scene(renderer: Renderer) -> None:
    """Sizes of one scene, so that a change of the recipe does not pass unseen."""
    sample = renderer.render(7)
    # Share of covered pixels, mean level, metres to the pelvis: from the first version.
    assert float(sample.mask.mean()) == pytest.approx(0.217, abs=0.01)
    assert float(sample.image.mean()) == pytest.approx(112.642, abs=2.0)
    assert float(sample.joints[0, 2]) == pytest.approx(5.612, abs=0.01)


def test_config_is_what_seeds_the_image(renderer: Renderer) -> None:
    assert renderer.rng(4).random() == np.random.default_rng([0, 0, 4]).random()
    assert SynthConfig().size == 256
