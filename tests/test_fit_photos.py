"""fit_batch on whole networks: a checkpoint in SPIN's layout, and the open regressor on photos."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import eft_fast
from eft_fast.body.model_io import load_arrays
from eft_fast.body.smpl import Smpl
from eft_fast.data import read_coco
from eft_fast.models.hmr import Hmr
from tests.models.plain_hmr import make_state


@pytest.fixture(scope="module")
def spin_file(tmp_path_factory):
    """Made-up weights under the keys and in the shapes of SPIN's checkpoints."""
    path = tmp_path_factory.mktemp("spin") / "model_checkpoint.pt"
    torch.save({"model": make_state(Hmr(), seed=3), "epoch": 3}, path)
    return path


@pytest.fixture(scope="module")
def smpl():
    """The open body under the name of the body that SPIN's regressor was trained on."""
    return Smpl(replace(load_arrays("open"), model_id="smpl-neutral"))


@pytest.mark.parametrize("mode", ["full", "layer4", "head"])
def test_a_spin_checkpoint_is_fitted(spin_file, smpl, mode):
    """ResNet-50 at 224 px: loaded, fitted one by one and in slots, and left as it was."""
    regressor = eft_fast.load_regressor(spin_file)
    assert regressor.input_size == 224
    before = {key: value.clone() for key, value in regressor.state_dict().items()}
    generator = np.random.default_rng(1)
    photos = list(generator.integers(0, 256, (2, 300, 200, 3), dtype=np.uint8))
    keypoints = np.ones((2, 17, 3))
    keypoints[..., :2] = generator.uniform(40, 160, (2, 17, 2))
    options = {
        "regressor": regressor,
        "body": smpl,
        "mode": mode,
        "config": eft_fast.EftConfig(max_steps=3, threshold=0),
        "progress": False,
    }
    loop = eft_fast.fit_batch(photos, keypoints, **options)
    slots = eft_fast.fit_batch(photos, keypoints, **options, slots=2)
    assert loop.stop_reason == slots.stop_reason == ("max_steps",) * 2
    assert loop.mode == slots.mode == mode
    assert loop.regressor_id == regressor.full_id
    moved = (loop.params.full_pose - loop.init.params.full_pose).abs().amax((1, 2, 3))
    assert (moved > 1e-6).all()
    torch.testing.assert_close(slots.params.full_pose, loop.params.full_pose, rtol=0, atol=1e-3)
    # Adam turns rounding into steps of its rate: on noise they differ by up to 2e-3 at times.
    torch.testing.assert_close(slots.pred_cam, loop.pred_cam, rtol=1e-3, atol=4e-3)
    assert all(torch.equal(value, before[k]) for k, value in regressor.state_dict().items())


def read_people(shared_dir, count):
    folder = shared_dir / "data" / "coco_people_open"
    if not folder.is_dir():
        pytest.skip("the photos coco_people_open are absent")
    samples = read_coco(folder / "people.json", folder / "images", min_keypoints=8)
    samples = [sample for sample in samples if sample.problem is None][:count]
    corners = np.stack([sample.bbox_xyxy for sample in samples])
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    keypoints = np.stack([sample.keypoints_2d_px for sample in samples])
    return [sample.image for sample in samples], keypoints, boxes


def check_any_company(people, mode, config, sizes):
    """The loop, and slots of every size in another order: rounding apart from one another."""
    regressor, body = eft_fast.load_regressor(), eft_fast.load_body()
    options = {"regressor": regressor, "body": body, "mode": mode, "config": config}
    options |= {"progress": False}
    images, keypoints, boxes = people
    loop = eft_fast.fit_batch(images, keypoints, bboxes=boxes, **options)
    joints = loop.joints3d("smpl24")
    order = np.random.default_rng(2).permutation(len(images))
    first = None
    for size in sizes:
        mixed = eft_fast.fit_batch(
            [images[i] for i in order], keypoints[order], bboxes=boxes[order], **options, slots=size
        )
        back = mixed[np.argsort(order)]
        assert back.steps.tolist() == loop.steps.tolist()
        assert back.stop_reason == loop.stop_reason
        # A millimetre: at 20 steps float32 rounding of the loop itself is of this size.
        distance = (back.joints3d("smpl24") - joints).norm(dim=-1)
        assert float(distance.max()) < 1e-3
        first = first or back
        assert torch.equal(back.params.full_pose, first.params.full_pose)
        assert torch.equal(back.pred_cam, first.pred_cam)
    moved = (joints - loop.joints3d("smpl24", which="init")).norm(dim=-1).mean(1)
    assert float(moved.min()) > 1e-4
    return float(distance.max()), loop


def test_photos_in_any_order_and_batch_size(shared_dir):
    people = read_people(shared_dir, 3)
    config = eft_fast.EftConfig(max_steps=4, threshold=0)
    check_any_company(people, "full", config, (2, 3))
    check_any_company(people, "head", config, (2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "head"])
def test_all_photos_in_any_order_and_batch_size(shared_dir, mode):
    """Everybody, all steps, with the usual stop."""
    people = read_people(shared_dir, None)
    check_any_company(people, mode, eft_fast.EftConfig(), (2, 7))
