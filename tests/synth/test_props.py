"""Floors, seats, children, loose clothes and lying people: options beyond the defaults."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eft_fast.synth import CameraConfig, PhotoConfig, PoseConfig, Renderer, SynthConfig
from eft_fast.synth.config import SCENES, make_scenes, varied
from eft_fast.synth.poses import sample_viewed_pose
from tests.synth.test_poses import knee_bends

CLEAN = PhotoConfig(occluder=0, table=0, companion=0)
WHOLE = CameraConfig(cut_hips=0, cut_elbows=0, cut_knees=0, cut_side=0)


def variant(renderer: Renderer, **changes: object) -> Renderer:
    base = SynthConfig(size=64, supersample=1, photo=CLEAN, camera=WHOLE)
    config = replace(base, **changes)  # type: ignore[arg-type]
    return Renderer(renderer.body, renderer.pool, "train", config=config)


def test_a_floor_touches_the_lowest_point(renderer: Renderer) -> None:
    """No vertex is more than 2 cm below it, and one is within 2 cm of it."""
    with_floor = variant(renderer, ground=1.0)
    seen = 0
    for index in range(12):
        scene = with_floor.scene(index)
        if scene.props is None:
            continue
        seen += 1
        up = scene.placed.person.up
        heights = scene.placed.surface.numpy() @ up
        floor = scene.props.vertices[:49] @ up
        assert np.ptp(floor) < 1e-6
        assert 0 < floor[0] - heights.min() < 0.02
        assert floor[0] < 0  # below the camera
        np.testing.assert_allclose(np.linalg.norm(scene.props.normals, axis=1), 1, atol=1e-6)
    assert seen >= 6


def test_labels_stay_and_only_visibility_falls(renderer: Renderer) -> None:
    without, with_floor = variant(renderer), variant(renderer, ground=1.0)
    changed, hidden = 0, 0
    for index in range(12):
        before, after = without.render(index), with_floor.render(index)
        for name in ("rotmat", "betas", "joints", "landmarks", "camera", "mask"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name), name)
        assert (after.landmarks_2d[:, 2] <= before.landmarks_2d[:, 2]).all()
        gap = np.abs(before.image.astype(int) - after.image.astype(int)).max(2)
        changed += int((gap > 25).mean() > 0.05)
        hidden += int((after.landmarks_2d[:, 2] < before.landmarks_2d[:, 2]).sum())
    assert changed >= 6
    # The floor under somebody who stands hides nobody; what it may hide is a foot or two.
    assert hidden < 30


def test_who_sits_gets_a_seat_under_the_pelvis(renderer: Renderer) -> None:
    sitting = variant(renderer, ground=1.0, pose=PoseConfig(procedural=1.0, any_roll=0.0))
    seats = 0
    for index in range(40):
        scene = sitting.scene(index)
        if scene.props is None or len(scene.props.vertices) == 49 * 49:
            continue
        seats += 1
        up, joints = scene.placed.person.up, scene.placed.joints.numpy()
        box = scene.props.vertices[49 * 49 :][:24]
        top = (box @ up).max()
        assert 0 < joints[0] @ up - top < 0.25
        # The pelvis is above the box: seen from above, inside its corners or nearly so.
        flat = box - np.outer(box @ up, up)
        pelvis = joints[0] - joints[0] @ up * up
        assert np.linalg.norm(flat.mean(0) - pelvis) < 0.15
    assert seats >= 8


def test_a_seat_hides_what_is_behind_it(renderer: Renderer) -> None:
    options = {"pose": PoseConfig(procedural=1.0, any_roll=0.0)}
    without, with_seat = variant(renderer, **options), variant(renderer, ground=1.0, **options)
    fell = [
        int((with_seat.render(k).landmarks_2d[:, 2] < without.render(k).landmarks_2d[:, 2]).sum())
        for k in range(20)
    ]
    assert sum(fell) > 3


def test_defaults_draw_none_of_it(renderer: Renderer) -> None:
    """Sets of earlier versions repeat: no option takes a random number while it is off."""
    plain = variant(renderer)
    assert plain.scene(0).props is None
    for options in ({"ground": 1e-9}, {}):
        other = variant(renderer, **options)
        assert np.array_equal(plain.render(3).image, other.render(3).image)


def test_children_are_short_with_large_heads(renderer: Renderer) -> None:
    children = variant(renderer, child=1.0)
    for index in range(4):
        betas = torch.from_numpy(children.scene(index).placed.person.betas).float()[None]
        body = renderer.body(betas)
        mean = renderer.body()
        tall, usual = (
            float(b.vertices[0, :, 1].max() - b.vertices[0, :, 1].min()) for b in (body, mean)
        )
        head, usual_head = (
            float(b.vertices[0, :, 1].max() - b.joints[0, 12, 1]) for b in (body, mean)
        )
        assert 1.25 < tall < 1.55
        assert head / tall > usual_head / usual


def test_loose_clothes_stand_off(renderer: Renderer) -> None:
    rng = np.random.default_rng(0)
    tight = [renderer.wardrobe.draw(rng).inflation.max() for _ in range(8)]
    loose = [renderer.wardrobe.draw(rng, loose=1.0).inflation.max() for _ in range(8)]
    assert np.mean(loose) > np.mean(tight) + 0.02


def test_lying_people_lie(renderer: Renderer) -> None:
    rng = np.random.default_rng(0)
    config = PoseConfig(lying=1.0, procedural=0, any_roll=0)
    for _ in range(12):
        rotmat, view = sample_viewed_pose(rng, renderer.pool, config)
        assert abs((rotmat[0] @ [0, 1, 0]) @ view[:, 1]) < 0.75  # the spine is far from upright


def test_varied_has_everything() -> None:
    config = varied(64, 5)
    assert (config.size, config.seed) == (64, 5)
    assert min(config.child, config.loose, config.ground, config.pose.lying) > 0


def test_kinds_of_scenes_show_their_kind(renderer: Renderer) -> None:
    assert make_scenes("training", 64, 5) == SynthConfig(size=64, seed=5)
    assert make_scenes("varied", 64, 5) == varied(64, 5)
    with pytest.raises(ValueError, match="must be one of training, varied, standing, sitting"):
        make_scenes("dull")
    shown = {}
    for name in SCENES:
        config = make_scenes(name, 64, 5)
        config = replace(config, supersample=1, photo=CLEAN, camera=WHOLE)
        scenes = Renderer(renderer.body, renderer.pool, "train", config=config)
        shown[name] = [scenes.scene(index).placed.person for index in range(30)]
    # In the mean over people: how far the spine leans in the world, and the first betas.
    lean = {
        name: np.mean([abs((each.rotmat[0] @ [0, 1, 0]) @ each.up) for each in people])
        for name, people in shown.items()
    }
    assert lean["lying"] < 0.5 < 0.7 < lean["standing"]
    stature = {name: np.mean([each.betas[0] for each in people]) for name, people in shown.items()}
    assert stature["children"] < stature["standing"] - 1
    bends = {
        name: np.median(knee_bends(np.stack([each.rotmat for each in people])))
        for name, people in shown.items()
    }
    assert bends["standing"] < 15 < 40 < bends["sitting"]
