from __future__ import annotations

from pathlib import Path

import pytest

from eft_fast.training.config_file import load_run, run_from_table

REPO = Path(__file__).resolve().parents[2]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_fields_at_any_depth_and_paths(tmp_path: Path) -> None:
    file = write(
        tmp_path / "run.toml",
        "threads = 2\nstages = ['head']\n"
        "[recipe]\nwork = 'run'\nmotion = '/cmu'\ntrain = 30\n"
        "[recipe.head]\nlr = 1\n[recipe.head.loss]\nbetas = 0.5\n"
        "[recipe.synth.camera]\ndistance_m = [3, 4.5]\n",
    )
    run = load_run(file, {"recipe.train": 7, "recipe.trunk": Path("full.npz")})
    recipe = run.recipe
    assert (run.threads, run.processes, run.stages) == (2, 1, ("head",))
    assert recipe.work == tmp_path / "run"
    assert recipe.motion == Path("/cmu")
    assert recipe.trunk == Path("full.npz").absolute()
    assert recipe.train == 7
    assert recipe.head.lr == 1.0
    assert recipe.head.loss.betas == 0.5
    assert recipe.head.steps == type(recipe.head)().steps
    assert recipe.synth.camera.distance_m == (3.0, 4.5)


def test_the_committed_file_is_whole() -> None:
    run = load_run(REPO / "docs" / "train_small.toml")
    assert run.stages == ("render", "head", "finetune", "evaluate")
    assert run.recipe.train == 2000


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"recipe": {"work": "w", "motion": "m", "trian": 3}}, "recipe has no option 'trian'"),
        (
            {"recipe": {"work": "w", "motion": "m", "train": "3"}},
            "recipe.train must be of type",
        ),
        ({"recipe": {"work": "w", "motion": "m", "train": True}}, "recipe.train must be of type"),
        ({"recipe": {"work": "w", "motion": "m", "head": 3}}, "recipe.head must be a table"),
        ({"recipe": {"motion": "m"}}, "recipe is incomplete"),
        ({"speed": 1}, "the file has no option 'speed'"),
        ({"recipe": {"work": "w", "motion": "m"}, "stages": ["fly"]}, "stages must be of render"),
        (
            {"recipe": {"work": "w", "motion": "m", "synth": {"camera": {"distance_m": [1]}}}},
            "recipe.synth.camera.distance_m must be of type",
        ),
    ],
)
def test_mistakes_are_named(table: dict, words: str) -> None:
    with pytest.raises(ValueError, match="train: ") as caught:
        run_from_table(table, Path())
    assert words in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        load_run(tmp_path / "none.toml")
    with pytest.raises(ValueError, match="must be a TOML file"):
        load_run(write(tmp_path / "bad.toml", "work ="))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[recipe.head]\nlr = nan\n", "lr must be 0 or more, got nan"),
        ("[recipe.head]\nlr = inf\n", "lr must be 0 or more, got inf"),
        ("[recipe.head]\nsteps = -5\n", "steps must be 1 to 1e\\+09, got -5"),
        ("[recipe.head]\ndropout = 1.5\n", "dropout must be 0 to 1, got 1.5"),
        ("[recipe.head.loss]\nbetas = -1.0\n", "betas must be 0 or more"),
        ("train = 99999999999999999999999999\n", "train must be 0 to"),
        ('trunk = "a\\u0000b"\n', "trunk must be a path, got one with a zero byte"),
    ],
)
def test_numbers_that_training_cannot_use_are_named(tmp_path: Path, text: str, words: str) -> None:
    file = write(tmp_path / "run.toml", f"[recipe]\nwork = 'w'\nmotion = 'm'\n{text}")
    with pytest.raises(ValueError, match=rf"train: .*{words}"):
        load_run(file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("threads = 0\n", "threads must be 1 to"),
        ("processes = -3\n", "processes must be 1 to"),
        ("device = '$(rm)'\n", "device must be a name such as cpu"),
        ("a = " + "[" * 5000 + "]" * 5000, "must be a TOML file"),
    ],
)
def test_runs_that_cannot_start_are_named(tmp_path: Path, text: str, words: str) -> None:
    file = write(tmp_path / "run.toml", f"{text}\n[recipe]\nwork = 'w'\nmotion = 'm'\n")
    with pytest.raises(ValueError, match=rf"train: .*{words}"):
        load_run(file)
