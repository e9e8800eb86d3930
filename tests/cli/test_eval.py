"""``eft-fast eval`` and ``fit --method smplify`` from outside."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from PIL import Image

import eft_fast.api
from eft_fast.body import load_body
from eft_fast.cli import main
from eft_fast.models import load_regressor
from eft_fast.models.open_file import save_open_regressor
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.result import FitResult
from eft_fast.synth import SynthConfig, SynthJob, load_shards, render_shards
from eft_fast.training.measure import count_seen, score_renders


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("regressor") / "tiny.npz"
    save_open_regressor(OpenRegressor.make_tiny(), path, licence="Apache-2.0", source_sha256="0")
    return str(path)


@pytest.fixture
def motion(tmp_path):
    """The three files that the scenes read, with a few frames each in the test split."""
    rng = np.random.default_rng(0)

    def pose(frames: int) -> np.ndarray:
        return (0.2 * rng.normal(size=(frames, 72))).astype(np.float16)

    np.savez(
        tmp_path / "cmu_smpl24_12fps.npz",
        pose=pose(6), seq=np.repeat([0, 1], 3).astype(np.int16),
        names=np.array(["x/indian/13.bvh", "x/indian/01.bvh"]), fps=12,
    )  # fmt: skip
    np.savez(tmp_path / "cmu_subjects_01_03_10hz.npz", pose=pose(4))
    np.savez(
        tmp_path / "cmu_more_subjects_10hz.npz",
        pose=pose(4), subject=np.array([6, 6, 5, 5]), clip=np.array(["a", "a", "b", "b"]),
        action=np.array(["walk"] * 4),
    )  # fmt: skip
    return tmp_path


def test_openbench(motion, tiny, tmp_path, capsys):
    out = tmp_path / "bench"
    arguments = ["eval", "openbench", "--motion", str(motion), "--count", "3", "--quiet"]
    arguments += ["--regressor", tiny, "--out", str(out), "--json"]
    arguments += ["--methods", "regressor", "eft_head", "smplify_spin_gmm"]
    assert main(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert list(summary["methods"]) == ["regressor", "eft_head", "smplify_spin_gmm"]
    for row in summary["methods"].values():
        for key in ("pa_mpjpe_mm", "mpjpe_mm", "pve_mm", "kp_error_px", "fits_per_second"):
            assert row[key] > 0
    assert len(summary["set_sha256"]) == 64
    assert summary["levels"][0]["hidden"].keys() == {"people", "joints"}
    assert "hidden_mpjpe_mm" in summary["methods"]["regressor"]
    assert [level["noise"] for level in summary["levels"]] == [0.0, 0.02]
    assert summary["levels"][0]["methods"] == summary["methods"]
    page = (out / "openbench.md").read_text()
    assert "--count 3" in page
    assert summary["set_sha256"] in page
    assert str(motion) not in page
    assert json.loads((out / "openbench.json").read_text()) == summary
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["set_sha256"] == summary["set_sha256"]


def test_openbench_takes_the_pictures_of_a_training_run(motion, tiny, tmp_path, capsys):
    """By the seed of the run, they are those of its test split, however many it has."""
    job = SynthJob(tmp_path / "run", "test", 3, motion=motion, config=SynthConfig(size=256, seed=0))
    arrays = load_shards(render_shards(job))
    digest = hashlib.sha256(arrays.image[:2].tobytes() + arrays.landmarks_2d[:2].tobytes())
    arguments = ["eval", "openbench", "--motion", str(motion), "--count", "2", "--noise", "0"]
    arguments += ["--regressor", tiny, "--out", str(tmp_path / "b"), "--json", "--quiet"]
    assert main([*arguments, "--seed", "0", "--methods", "regressor"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["seed"] == 0
    assert summary["set_sha256"] == digest.hexdigest()
    assert "--seed 0" in (tmp_path / "b" / "openbench.md").read_text()


def test_openbench_without_motion_says_where_its_poses_come_from(tiny, tmp_path, capsys):
    arguments = ["eval", "openbench", "--count", "2", "--noise", "0", "--regressor", tiny]
    arguments += ["--out", str(tmp_path), "--json", "--methods", "regressor"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["poses"] == "prior"
    assert "poses are drawn from the pose prior" in printed.err
    page = (tmp_path / "openbench.md").read_text()
    assert "in poses drawn from the shipped pose prior" in page
    assert "--motion" not in page


def test_renders_scores_a_regressor_alone(motion, tiny, tmp_path, capsys):
    """On the pictures of a training run's test split, by the run's own measure."""
    job = SynthJob(tmp_path / "run", "test", 3, motion=motion, config=SynthConfig(seed=4))
    arrays = load_shards(render_shards(job))
    errors = score_renders(load_regressor(tiny), load_body(), arrays)
    expected = errors.summary()
    arguments = ["eval", "renders", "--motion", str(motion), "--count", "3", "--seed", "4"]
    arguments += ["--out", str(tmp_path / "b"), "--json", "--quiet"]
    assert main([*arguments, "--regressor", tiny]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["people"] == 3
    assert summary["poses"] == "motion"
    assert {name: summary[name] for name in expected} == expected
    assert summary["by_seen"] == errors.rows_by_seen(count_seen(arrays))
    assert sum(row["people"] for row in summary["by_seen"]) == 3
    assert main([*arguments, "--count", "0"]) == 2
    assert "--count must be at least 1" in capsys.readouterr().err


def test_benches_show_one_kind_of_people(motion, tiny, tmp_path, capsys):
    common = ["--motion", str(motion), "--count", "2", "--regressor", tiny, "--json", "--quiet"]
    common += ["--out", str(tmp_path / "b")]
    digests, errors = set(), set()
    for scenes in ("training", "lying"):
        bench = ["eval", "openbench", *common, "--noise", "0", "--methods", "regressor"]
        assert main([*bench, "--scenes", scenes]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["scenes"] == scenes
        digests.add(summary["set_sha256"])
        page = (tmp_path / "b" / "openbench.md").read_text()
        assert ("--scenes lying" in page) == (scenes == "lying")
        assert main(["eval", "renders", *common, "--scenes", scenes]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["scenes"] == scenes
        errors.add(summary["mpjpe_mm"])
    # The sets have folders of their own: neither takes the other's pictures.
    assert len(digests) == len(errors) == 2


def test_cards(capsys):
    assert main(["eval", "cards"]) == 0
    printed = capsys.readouterr().out
    assert "3dpw14" in printed
    assert "joint 0 of h36m17_Jreg" in printed


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--motion", "{empty}"], "no file cmu_smpl24_12fps.npz"),
        (["--motion", "absent"], "--motion must be a folder, there is none: absent"),
        (["--motion", "absent", "--count", "0"], "--count must be at least 1"),
        (["--methods", "eft_haed"], "did you mean 'eft_head'"),
    ],
)
def test_wrong_use_is_one_sentence(more, words, tiny, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    more = [word.format(empty=tmp_path / "empty") for word in more]
    arguments = ["eval", "openbench", "--regressor", tiny, "--out", str(tmp_path / "b"), *more]
    assert main([*arguments, "--quiet"]) == 2
    *progress, sentence = capsys.readouterr().err.strip().splitlines()
    assert words in sentence
    assert not any("Traceback" in line for line in progress)


@pytest.fixture
def dataset(tmp_path):
    """A photo and its keypoints."""
    rng = np.random.default_rng(1)
    photos = tmp_path / "photos"
    photos.mkdir()
    picture = rng.integers(0, 256, (160, 160, 3), dtype=np.uint8)
    Image.fromarray(picture).save(photos / "photo.png")
    keypoints = np.concatenate([rng.uniform(30, 130, (17, 2)), np.full((17, 1), 2)], 1)
    annotation = {
        "id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [20, 20, 120, 120],
        "area": 14400, "num_keypoints": 17, "keypoints": keypoints.ravel().tolist(),
    }  # fmt: skip
    document = {
        "images": [{"id": 1, "file_name": "photo.png", "width": 160, "height": 160}],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "person"}],
    }
    path = tmp_path / "people.json"
    path.write_text(json.dumps(document))
    return photos, path


def test_fit_by_smplify(dataset, tiny, tmp_path, capsys):
    photos, path = dataset
    arguments = ["fit", str(photos), "--annotations", str(path), "--regressor", tiny, "--json"]
    arguments += ["--quiet", "--no-pictures", "--method", "smplify2016", "--prior", "limits"]
    assert main([*arguments, "--max-steps", "3", "--out", str(tmp_path / "fits")]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["method"], summary["mode"]) == ("smplify2016", "limits")
    result = FitResult.load(tmp_path / "fits" / "fits.npz")
    assert int(result.steps[0]) > 0
    assert result.intrinsics.isnan().all()
    wide = [*arguments, "--max-steps", "3", "--focal", "300", "--out", str(tmp_path / "wide")]
    assert main(wide) == 0
    capsys.readouterr()
    near = FitResult.load(tmp_path / "wide" / "fits.npz")
    assert near.intrinsics[0].tolist() == [[300, 0, 79.5], [0, 300, 79.5], [0, 0, 1]]
    assert 0 < float(near.cam_transl()[0, 2]) < 20
    assert main([*arguments, "--focal", "exif", "--out", str(tmp_path / "fits")]) == 2
    assert "--focal must be pixels or diagonal, got exif" in capsys.readouterr().err
    assert main([*arguments[:-1], "vposer", "--out", str(tmp_path / "fits")]) == 2
    assert "prior must be one of" in capsys.readouterr().err


def test_coco(dataset, tiny, tmp_path, capsys):
    photos, path = dataset
    arguments = ["eval", "coco", "--photos", str(photos), "--annotations", str(path), "--json"]
    arguments += ["--regressor", tiny, "--quiet", "--out", str(tmp_path / "coco")]
    arguments += ["--methods", "regressor", "smplify_spin_gmm"]
    assert main(arguments) == 0
    rows = json.loads(capsys.readouterr().out)["methods"]
    assert list(rows) == ["regressor", "smplify_spin_gmm"]
    assert rows["smplify_spin_gmm"]["kp_error_px"] < rows["regressor"]["kp_error_px"]
    assert rows["smplify_spin_gmm"]["pck_0.1"] >= rows["smplify_spin_gmm"]["pck_0.05"]
    with Image.open(tmp_path / "coco" / "side_by_side" / "00001.png") as sheet:
        panels = [Image.open(p).height for p in (tmp_path / "coco" / "panels").glob("*/*.png")]
        assert sheet.height == sum(panels)
    coco = ["eval", "coco", "--photos", str(photos), "--annotations", str(path)]
    assert main([*coco, "--methods", "spin_refit", "--out", str(tmp_path / "x")]) == 2
    assert "use it with openbench" in capsys.readouterr().err


def test_coco_stops_when_a_fit_was_interrupted(dataset, tiny, tmp_path, capsys, monkeypatch):
    photos, path = dataset
    fit_batch, called = eft_fast.api.fit_batch, []

    def interrupted(*arguments, **options):
        called.append(options["method"])
        result = fit_batch(*arguments, **options)
        return dataclasses.replace(result, stop_reason=("interrupted",))

    monkeypatch.setattr("eft_fast.api.fit_batch", interrupted)
    arguments = ["eval", "coco", "--photos", str(photos), "--annotations", str(path)]
    arguments += ["--regressor", tiny, "--out", str(tmp_path / "coco"), "--methods", "regressor"]
    assert main([*arguments, "smplify_spin_gmm"]) == 130
    assert called == ["none"]
    assert not (tmp_path / "coco").exists()
