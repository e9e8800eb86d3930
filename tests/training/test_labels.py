"""People to learn from: fits, samples, and crops with their labels, however they are varied."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from eft_fast.geometry.cameras import weak_project
from eft_fast.keypoints import JOINT_SETS
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.pseudo_gt import SelectConfig
from eft_fast.sample import Sample
from eft_fast.synth import SynthConfig, SynthJob, load_set, write_set
from eft_fast.training.crops import PLAIN, AugmentConfig, CropReader
from eft_fast.training.labels import (
    LabelledPeople,
    join_people,
    mirror_labels,
    turn_labels,
)
from eft_fast.training.targets import fit_weak_camera

GENERATOR = 5


@pytest.fixture(scope="module")
def rendered_set(tmp_path_factory):
    out = tmp_path_factory.mktemp("set")
    write_set(
        SynthJob(out=out, split="train", count=6, config=SynthConfig(size=96, supersample=1)),
        progress=False,
    )
    return out


@pytest.fixture(scope="module")
def people(rendered_set, open_body):
    return LabelledPeople.from_samples(load_set(rendered_set, min_keypoints=8), open_body)


def read(people, config=PLAIN, rows=None, seed=GENERATOR):
    rows = torch.arange(len(people)) if rows is None else rows
    reader = CropReader(people, OpenRegressor.make_tiny(), config)
    return reader(rows, torch.Generator().manual_seed(seed))


def misfit(labels, body):
    """How far the posed body lies from the labelled keypoints under the best weak camera."""
    posed = body.keypoints(
        labels.betas, labels.rotmat[:, 1:], labels.rotmat[:, :1], joint_set="j24", pose2rot=False
    )
    errors = []
    for points, flat in zip(posed, labels.keypoints_2d[:, 25:], strict=True):
        seen = flat[:, 2] > 0
        camera = fit_weak_camera(points[None, seen], flat[None, seen, :2])
        projected = weak_project(points[None], camera)[0]
        size = (flat[seen, :2] - flat[seen, :2].mean(0)).norm(dim=-1).mean()
        errors.append(((projected - flat[:, :2])[seen].norm(dim=-1).mean() / size).item())
    return np.array(errors)


def test_true_poses_lie_on_their_keypoints_however_crops_are_varied(people, open_body):
    """Perspective and the joints' definitions leave a few percent, and variation adds nothing."""
    plain = misfit(read(people)[1], open_body)
    assert len(people) >= 5
    assert plain.max() < 0.25
    moved = AugmentConfig(mirror=1.0, turn=1.0, turn_deg=40.0, cut=0.0)
    np.testing.assert_allclose(misfit(read(people, moved)[1], open_body), plain, atol=1e-4)
    points = read(people, moved)[1].points_3d
    labels = read(people, moved)[1]
    posed = open_body.keypoints(
        labels.betas, labels.rotmat[:, 1:], labels.rotmat[:, :1], joint_set="j24", pose2rot=False
    )
    # The points in space went the same way as the pose.
    centred = points[..., :3] - points[:, 12:13, :3]
    torch.testing.assert_close(centred, posed - posed[:, 12:13], atol=2e-3, rtol=0)


def test_pixels_follow_the_keypoints(tmp_path, open_body):
    """A bright spot on a keypoint stays under it: moved, scaled, turned and mirrored."""
    picture = np.zeros((120, 160, 3), np.uint8)
    yy, xx = np.mgrid[:120, :160]
    picture[(yy - 40) ** 2 + (xx - 100) ** 2 <= 4] = 255
    path = tmp_path / "spot.png"
    Image.fromarray(picture).save(path)
    keypoints = np.zeros((17, 3), np.float32)
    keypoints[9] = [100, 40, 1]  # left wrist
    keypoints[5:9] = [[60, 30, 1], [110, 90, 1], [50, 80, 1], [80, 60, 1]]
    sample = Sample(
        "1", "arrays", str(path), keypoints, "coco17", bbox_xyxy=np.array([30, 10, 130, 110.0])
    )
    one = LabelledPeople.from_samples([sample] * 8, open_body)
    config = replace(AugmentConfig(), cut=0.0, channel_noise=0.0, turn=1.0)
    img, labels = read(one, config)
    names = JOINT_SETS["spin49"].names
    size = img.shape[-1]
    for crop, flat in zip(img[:, 0], labels.keypoints_2d, strict=True):
        bright = (crop > 0.5).nonzero().float()
        found = bright.mean(0).flip(0)  # x, y
        wrists = [names.index(name) for name in ("lwri", "rwri")]
        expected = (flat[wrists, :2] + 1) * size / 2
        assert (expected - found).norm(dim=-1).min() < 2.0
    # Mirrored, the left wrist is labelled as the right one.
    is_right = labels.keypoints_2d[:, names.index("rwri"), 2] > 0
    assert is_right.any()
    assert not is_right.all()


def test_mirrored_and_turned_twice_is_nothing(people):
    labels = read(people)[1]
    which = torch.tensor([True] * len(people))
    size = 256
    for name, old, new in zip(
        labels._fields,
        labels,
        mirror_labels(mirror_labels(labels, which, size), which, size),
        strict=True,
    ):
        if name == "keypoints_2d":
            old, new = old * (old[..., 2:] > 0), new * (new[..., 2:] > 0)
        torch.testing.assert_close(new, old, msg=name)
    angle = torch.linspace(-1, 1, len(people))
    for old, new in zip(labels, turn_labels(turn_labels(labels, angle), -angle), strict=True):
        torch.testing.assert_close(new, old, atol=1e-5, rtol=1e-5)


def test_short_crops_forget_what_they_do_not_show(people):
    _, labels = read(people, AugmentConfig(0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0), seed=1)
    flat = labels.keypoints_2d
    full = read(people)[1].keypoints_2d
    fewer = (flat[..., 2] > 0).sum(1) < (full[..., 2] > 0).sum(1)
    assert fewer.any()
    shown = flat[fewer]
    assert shown[shown[..., 2] > 0][:, :2].abs().max() <= 1


def test_a_broken_photo_teaches_nothing_and_changes_nobody(people, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    photos = (people.photos[0], str(broken), *people.photos[2:])
    img, labels = read(people, AugmentConfig())
    other_img, other = read(replace(people, photos=photos), AugmentConfig())
    rest = [row for row in range(len(people)) if row != 1]
    assert torch.equal(img[rest], other_img[rest])
    for before, after in zip(labels, other, strict=True):
        assert torch.equal(before[rest], after[rest])
    assert not other.rotmat_weight[1].any()
    assert not other.keypoints_2d[1, :, 2].any()
    assert not other.points_3d[1, :, 3].any()
    assert not other.betas_weight[1]


def test_annotations_without_pose_are_2d_only(rendered_set, open_body):
    samples = load_set(rendered_set)
    flat = LabelledPeople.from_samples(samples, open_body, only_2d=True)
    assert not flat.rotmat_weight.any()
    assert not flat.points_3d[..., 3].any()
    known = LabelledPeople.from_samples(samples, open_body)
    for mine, theirs in (
        (known.without_pose().rotmat_weight, flat.rotmat_weight),
        (known.without_pose().keypoints_px, flat.keypoints_px),
    ):
        assert torch.equal(mine, theirs)
    nobody = replace(samples[0], keypoints_2d_px=np.zeros((17, 3), np.float32), full_pose=None)
    odd = [nobody, replace(samples[0], image=None), replace(samples[0], problem="cut"), samples[0]]
    kept = LabelledPeople.from_samples(odd, open_body)
    assert len(kept) == 1
    assert kept.left_out == {"without a label": 1, "without a photo": 1, "cannot be used": 1}


def test_points_in_space_are_taken_where_they_are_given(rendered_set, open_body):
    sample = load_set(rendered_set)[0]
    points = np.concatenate([np.random.default_rng(0).normal(size=(17, 3)), np.ones((17, 1))], 1)
    points[3] = np.nan
    with_points = replace(sample, keypoints_3d=points.astype(np.float32), full_pose=None)
    people = LabelledPeople.from_samples([with_points], open_body)
    place = JOINT_SETS["j24"].names.index("lwri")
    given = JOINT_SETS["coco17"].names.index("lwri")
    np.testing.assert_allclose(people.points_3d[0, place, :3], points[given, :3], rtol=1e-6)
    assert people.points_3d[0, JOINT_SETS["j24"].names.index("lear"), 3] == 0
    assert not people.rotmat_weight.any()


def test_fits_become_labels(rendered_set, open_body):
    import eft_fast

    samples = load_set(rendered_set, min_keypoints=8)[:3]
    result = eft_fast.fit_batch(
        [str(sample.image) for sample in samples],
        np.stack([sample.keypoints_2d_px for sample in samples]),
        bboxes=np.stack([sample.bbox_xywh for sample in samples]),
        method="map",
    )
    photos = [str(sample.image) for sample in samples]
    everybody = np.ones(3, bool)
    people = LabelledPeople.from_fits(result, photos, open_body, keep=everybody)
    assert torch.equal(people.rotmat, result.params.full_pose)
    assert torch.equal(people.rotmat_weight, torch.ones(3, 24))
    # The crop is the one that the fit saw, so keypoints of both agree.
    plain = LabelledPeople.from_samples(samples, open_body)
    torch.testing.assert_close(people.center, plain.center, atol=1e-3, rtol=0)
    torch.testing.assert_close(people.scale, plain.scale, atol=1e-5, rtol=0)
    weighed = LabelledPeople.from_fits(result, photos, open_body, keep=everybody, sigma_mm=60.0)
    sigma = result.joint_sigma_mm
    wrist = 20
    expected = 60.0**2 / (60.0**2 + sigma[:, wrist] ** 2)
    place = JOINT_SETS["j24"].names.index("lwri")
    torch.testing.assert_close(weighed.points_3d[:, place, 3], expected)
    # The elbow's rotation is known as well as the wrist that it moves.
    torch.testing.assert_close(weighed.rotmat_weight[:, 18], expected)
    none = LabelledPeople.from_fits(
        result, photos, open_body, select=SelectConfig(min_keypoints=99)
    )
    assert len(none) == 0
    assert none.left_out["few_keypoints"] == 3
    judged = LabelledPeople.from_fits(
        result, photos, open_body, verdicts=["reject", "keep", "keep"]
    )
    assert judged.photos == tuple(photos[1:])
    assert judged.left_out["by_hand"] == 1
    with pytest.raises(ValueError, match="one photo per fit expected, got 2 for 3"):
        LabelledPeople.from_fits(result, photos[:2], open_body)
    with pytest.raises(ValueError, match="the fits are of body other, got body open-1"):
        LabelledPeople.from_fits(replace(result, body_id="other"), photos, open_body)


def test_joined_sets_keep_their_order(people):
    both = join_people([people.take([1, 0]), people.take([2])])
    assert both.photos == (people.photos[1], people.photos[0], people.photos[2])
    assert torch.equal(both.keypoints_px, people.keypoints_px[[1, 0, 2]])
    with pytest.raises(ValueError, match="at least one set of people"):
        join_people([])
