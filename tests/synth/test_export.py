"""Written sets: what their files say of each other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eft_fast.body import load_body
from eft_fast.synth import (
    PhotoConfig,
    SynthConfig,
    SynthJob,
    make_renderer,
    sample_prior_poses,
    write_set,
)
from eft_fast.synth.landmarks import body_landmarks


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    job = SynthJob(
        out=tmp_path_factory.mktemp("set"),
        split="train",
        count=5,
        config=SynthConfig(size=96, seed=3),
        shard_size=2,
    )
    return job, write_set(job, progress=False)


def test_pictures_are_those_of_the_renderer(written) -> None:
    job, found = written
    renderer = make_renderer(load_body(), None, "train", config=job.config)
    for index in range(job.count):
        picture = np.asarray(Image.open(found.images / f"train_{index:07d}.png"))
        assert np.array_equal(picture, renderer.render(index).image)


def test_parameters_project_onto_the_keypoints(written) -> None:
    """Pose, shape and camera of the file give the keypoints of the JSON, within a rounding."""
    job, found = written
    document = json.loads(found.annotations.read_text())
    body = load_body()
    with np.load(found.parameters) as data:
        rotmat, betas = torch.from_numpy(data["rotmat"]), torch.from_numpy(data["betas"])
        pose = torch.from_numpy(data["pose"])
        posed = body(betas, pose[:, 3:], pose[:, :3])
        joints = posed.joints[:, :24] + torch.from_numpy(data["transl"])[:, None]
        np.testing.assert_allclose(joints.numpy(), data["joints3d"], atol=2e-4)
        points = body_landmarks(body, rotmat, betas) + torch.from_numpy(data["transl"])[:, None]
        flat = points.numpy() @ data["intrinsics"].transpose(0, 2, 1)
        flat = flat[..., :2] / flat[..., 2:]
        for row, annotation in enumerate(document["annotations"]):
            keypoints = np.reshape(annotation["keypoints"], (17, 3))
            seen = keypoints[:, 2] > 0
            assert annotation["num_keypoints"] == seen.sum()
            np.testing.assert_allclose(keypoints[seen, :2], flat[row, :17][seen], atol=5e-3)
            assert (keypoints[~seen] == 0).all()
    assert len(document["images"]) == job.count
    names = {image["id"]: f"images/{image['file_name']}" for image in document["images"]}
    with np.load(found.parameters) as data:
        for row, annotation in enumerate(document["annotations"]):
            assert annotation["id"] == data["annotation_id"][row]
            assert names[annotation["image_id"]] == data["imgname"][row]


def test_everybody_is_annotated(tmp_path: Path) -> None:
    """Where two people are, both have keypoints; who is behind loses some of them."""
    photo = PhotoConfig(companion=1.0, occluder=0, table=0)
    config = SynthConfig(size=64, supersample=1, photo=photo)
    job = SynthJob(out=tmp_path, split="train", count=6, config=config)
    found = write_set(job, progress=False)
    document = json.loads(found.annotations.read_text())
    per_picture = np.bincount([a["image_id"] for a in document["annotations"]], minlength=7)[1:]
    assert found.people == per_picture.sum()
    assert found.pictures == 6
    assert per_picture.min() >= 1
    assert (per_picture == 2).sum() >= 3
    renderer = make_renderer(load_body(), None, "train", config=config)
    scene = renderer.scene(int(np.argmax(per_picture)))
    first, second = renderer.draw_people(scene)
    assert np.array_equal(first.image, second.image)
    assert not np.array_equal(first.landmarks, second.landmarks)
    nearer = min((first, second), key=lambda sample: sample.joints[0, 2])
    assert nearer.mask.sum() > 20


def test_boxes_hold_the_visible_keypoints(written) -> None:
    _, found = written
    for annotation in json.loads(found.annotations.read_text())["annotations"]:
        x, y, width, height = annotation["bbox"]
        keypoints = np.reshape(annotation["keypoints"], (17, 3))
        inside = keypoints[keypoints[:, 2] == 2, :2] - [x, y]
        assert (inside > -4).all()
        assert (inside < np.array([width, height]) + 4).all()
        assert 0 < annotation["area"] <= width * height


def test_a_stopped_set_goes_on(written, tmp_path: Path) -> None:
    job, found = written
    other = replace(job, out=tmp_path, count=3)
    write_set(other, progress=False)
    stamp = (tmp_path / "images" / "train_0000000.png").stat().st_mtime_ns
    again = write_set(replace(other, count=5), progress=False)
    assert again.rendered == 3  # the last part of the smaller set was short
    assert (tmp_path / "images" / "train_0000000.png").stat().st_mtime_ns == stamp
    with np.load(again.parameters) as one, np.load(found.parameters) as two:
        for key in one.files:
            assert np.array_equal(one[key], two[key]), key
    assert again.annotations.read_text() == found.annotations.read_text()
    assert again.sheet.is_file()


def test_other_options_are_refused(written) -> None:
    job, _ = written
    with pytest.raises(ValueError, match="another config"):
        write_set(replace(job, config=SynthConfig(size=64)), progress=False)
    with pytest.raises(ValueError, match="another split"):
        write_set(replace(job, split="test"), progress=False)


def test_prior_poses_differ_by_split_and_stay_in_the_limits() -> None:
    from eft_fast.smplify.prior import load_pose_prior

    train, test = sample_prior_poses("train", frames=300), sample_prior_poses("test", frames=300)
    assert not np.array_equal(train.full_pose, test.full_pose)
    assert np.array_equal(train.full_pose, sample_prior_poses("train", frames=300).full_pose)
    limits = load_pose_prior().limits
    body = train.full_pose[:, 1:].reshape(300, 69)
    assert (body >= limits.lower.numpy() - 1e-6).all()
    assert (body <= limits.upper.numpy() + 1e-6).all()
    # Draws have the mixture's own mean, within the error of 300 draws.
    prior = load_pose_prior().mixture
    mean = (prior.weights[:, None] * prior.means).sum(0).numpy()
    assert np.abs(body[:, :63].mean(0) - mean).max() < 0.15
    with pytest.raises(ValueError, match="split must be one of"):
        sample_prior_poses("best")  # type: ignore[arg-type]
