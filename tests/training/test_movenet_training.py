"""The training of the regressor on MoveNet from one file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eft_fast.cli.main import main
from eft_fast.models import load_regressor
from eft_fast.models.error_covariance import load_error_covariance
from eft_fast.models.movenet_regressor import MoveNetRegressor
from eft_fast.synth import load_shards
from eft_fast.training import movenet_training, simulated_people
from eft_fast.training.config_file import load_run, run_from_table
from eft_fast.training.movenet_training import MoveNetTraining
from tests.training.test_movenet_head import write_skeletons

FILE = """
network = "open-2"
[recipe]
work = "run"
motion = "cmu"
skeletons = "coco.npz"
fitted = 0
train = 6
varied = 4
standing = 3
val = 4
test = 4
calibration = 90
synth = { size = 64, supersample = 1 }
[recipe.lift]
steps = 3
batch = 12
simulated = 0.5
skeletons = 0.25
trained_passes = 0
width = 16
blocks = 1
refine_blocks = 1
[recipe.head]
steps = 3
batch = 12
width = 16
blocks = 1
refine_blocks = 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of a run, motion of a few frames, and tiny networks in place of the published ones."""
    tiny = MoveNetRegressor.make_tiny
    monkeypatch.setattr(movenet_training, "load_movenet", lambda variant: tiny().trunk)
    monkeypatch.setattr(movenet_training, "load_open_regressor", lambda path: tiny().base)
    monkeypatch.setattr(simulated_people, "_POSTURES", 20)
    (tmp_path / "run.toml").write_text(FILE, encoding="utf-8")
    write_skeletons(tmp_path / "coco.npz")
    rng = np.random.default_rng(0)
    (tmp_path / "cmu").mkdir()
    recordings = np.array(["a/indian/13.bvh", "a/indian/08.bvh", "a/walk/1.bvh"])
    labels = {"subject": np.arange(30) % 20, "action": np.full(30, "walk")}
    for name, extra in (
        ("cmu_smpl24_12fps", {"names": recordings, "seq": np.arange(30) % 3}),
        ("cmu_subjects_01_03_10hz", {}),
        ("cmu_more_subjects_10hz", labels | {"clip": np.full(30, "c")}),
    ):
        np.savez(tmp_path / "cmu" / f"{name}.npz", pose=0.2 * rng.normal(size=(30, 72)), **extra)
    return tmp_path


def test_one_command_trains_measures_and_scores(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--config", str(folder / "run.toml"), "--quiet", "--json"]
    out = folder / "shipped.npz"
    arguments = ["--out", str(out), "--source-sha256", "0" * 64]
    assert main([*command, *arguments]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["seconds"]) == {"render", "head", "evaluate"}
    assert said["score"]["people"] == 4
    assert 20 < said["score"]["pa_mpjpe_mm"] < 500
    regressor = load_regressor(out)
    assert isinstance(regressor, MoveNetRegressor)
    assert regressor.head.width == 16
    measured = load_error_covariance(regressor, folder / "shipped.error_covariance.npz")
    assert measured.people == 90
    assert measured.second_moment_given is not None
    assert "noise of 0, 0.012, 0.02" in measured.source
    # Confidence was fitted: it is no even chance.
    assert bool((regressor.head.certainty.weight != 0).any())
    # What is there is not made again, and gives the same weights.
    shards = sorted((folder / "run" / "shards").glob("*.npz"))
    before = [path.stat().st_mtime_ns for path in shards]
    assert main([*command, "--stages", "head"]) == 0
    assert [path.stat().st_mtime_ns for path in shards] == before
    again = load_regressor(folder / "run" / "open2.npz")
    assert again.weights_hash == regressor.weights_hash


def test_learned_pictures_are_tighter_than_those_of_the_test(folder: Path) -> None:
    recipe = load_run(folder / "run.toml").recipe
    assert isinstance(recipe, MoveNetTraining)
    margins = {split: recipe.job(split).config.camera.margin for split in ("train", "val", "test")}
    assert margins == {"train": 1.12, "val": 1.12, "test": 1.23}
    assert [job.config.camera.margin for job in recipe.jobs("train")] == [1.12, 1.12, 1.12]
    assert recipe.jobs("train")[1].config.child > 0
    assert recipe.calibration_job().config.camera.margin == 1.23


def test_some_pictures_show_people_who_stand(folder: Path) -> None:
    recipe = load_run(folder / "run.toml").recipe
    assert isinstance(recipe, MoveNetTraining)
    standing = recipe.jobs("train")[2]
    assert standing.count == 3
    assert standing.config.pose.standing > 0.5
    # Nobody of them has the pose, or the view, of a picture of the first set.
    assert len({job.config.seed for job in recipe.jobs("train")}) == 3
    assert len({job.out for job in recipe.jobs("train")}) == 3
    none = load_run(folder / "run.toml", {"recipe.standing": 0, "recipe.varied": 0}).recipe
    assert [job.count for job in none.jobs("train")] == [6]
    assert all(job.config.pose.standing == 0 for job in none.jobs("val"))


def test_a_network_cuts_its_crop_out_of_the_picture(folder: Path) -> None:
    """Labels follow: a landmark stays on its pixel."""
    recipe = load_run(folder / "run.toml").recipe
    recipe.render()
    arrays = load_shards(recipe.shards("test"))
    assert arrays.cropped(1.0, 64) is arrays
    part = arrays.cropped(0.5, 32)
    # Half of the picture in half of the pixels: the middle, pixel by pixel.
    assert np.array_equal(part.image, arrays.image[:, 16:48, 16:48])
    old = (arrays.landmarks_2d[..., :2] + 1) * 32 - 16
    new = (part.landmarks_2d[..., :2] + 1) * 16
    np.testing.assert_allclose(new, old, atol=1e-4)
    assert np.array_equal(part.landmarks_2d[..., 2], arrays.landmarks_2d[..., 2])
    seen = part.landmarks + 0
    flat = part.camera[:, None, :1] * seen[..., :2] / seen[..., 2:] + part.camera[:, None, 1:]
    np.testing.assert_allclose(flat, part.landmarks_2d[..., :2], atol=1e-4)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"network": "open-9"}, "network must be one of open-1, open-2, got 'open-9'"),
        (
            {"network": "open-2", "stages": ["finetune"], "recipe": {"work": "a", "motion": "b"}},
            "open-2 has no stage finetune",
        ),
        (
            {"network": "open-2", "recipe": {"work": "a", "motion": "b", "trunk": "c"}},
            "recipe has no option 'trunk'",
        ),
        (
            {"network": "open-2", "recipe": {"work": "a", "motion": "b", "movenet": "heavy"}},
            "movenet must be one of thunder, lightning, got 'heavy'",
        ),
        (
            {
                "network": "open-2",
                "recipe": {"work": "a", "motion": "b", "head": {"width": 64}},
            },
            "lift and head must be of one network",
        ),
    ],
)
def test_other_options_are_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_from_table(table, Path())


def test_options_of_the_command_line_reach_the_recipe(folder: Path) -> None:
    changes = {"recipe.train": 12, "recipe.head.steps": 7, "recipe.lift.seed": 3}
    run = load_run(folder / "run.toml", changes)
    assert isinstance(run.recipe, MoveNetTraining)
    assert (run.recipe.train, run.recipe.head.steps, run.recipe.lift.seed) == (12, 7, 3)
    assert run.recipe.lift.trained_passes == 0
    assert torch.device(run.device).type == "cpu"


def test_files_of_the_documentation_are_runs() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    for name in ("train_open2.toml", "train_open2_lite.toml", "train_open2_small.toml"):
        run = load_run(docs / name)
        assert isinstance(run.recipe, MoveNetTraining)
        assert run.stages == ("render", "head", "evaluate")
