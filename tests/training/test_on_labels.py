"""Training on labelled photos: batches, resuming, shares, the frozen part, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import eft_fast
from eft_fast.cli import main
from eft_fast.models.hmr import Hmr
from eft_fast.models.open_file import save_open_regressor
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.synth import SynthConfig, SynthJob, load_set, write_set
from eft_fast.training.crops import PLAIN, AugmentConfig
from eft_fast.training.label_run import FRESH, DataSource, LabelRun, make_start, save_weights
from eft_fast.training.labels import LabelledPeople
from eft_fast.training.on_labels import FrozenStates, LabelConfig, Mixture, StageFeed
from eft_fast.training.on_labels import train_on_labels as train

QUICK = LabelConfig(steps=6, batch=3, lr=1e-3, warmup=1, validate_every=3, validation=0.4, ema=0.5)
HEAD = replace(QUICK, stage="head", augment=replace(PLAIN, mirror=0.5))


@pytest.fixture(scope="module")
def rendered_set(tmp_path_factory):
    out = tmp_path_factory.mktemp("set")
    write_set(
        SynthJob(out=out, split="train", count=8, config=SynthConfig(size=64, supersample=1)),
        progress=False,
    )
    return out


@pytest.fixture(scope="module")
def people(rendered_set, open_body):
    return LabelledPeople.from_samples(load_set(rendered_set), open_body)


def mixture(people):
    return Mixture((people,), (1.0,))


def weights(network):
    return torch.cat([value.flatten() for value in network.state_dict().values()])


@pytest.mark.parametrize("config", [QUICK, HEAD], ids=["photos", "stage"])
def test_a_stopped_run_ends_like_one_that_was_not(config, people, open_body, tmp_path):
    """And a dropout layer draws the same numbers."""
    whole = OpenRegressor.make_tiny()
    losses = train(whole, open_body, mixture(people), config, state=tmp_path / "whole.pt")
    assert len(losses) == config.steps

    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    part = OpenRegressor.make_tiny()
    with pytest.raises(Stop):
        train(
            part, open_body, mixture(people), config, state=tmp_path / "p.pt", save_every=2,
            on_save=stop,
        )  # fmt: skip
    again = OpenRegressor.make_tiny()
    rest = train(again, open_body, mixture(people), config, state=tmp_path / "p.pt")
    assert rest == losses[2:]
    assert torch.equal(weights(again), weights(whole))
    assert not torch.equal(weights(whole), weights(OpenRegressor.make_tiny()))
    lines = (tmp_path / "whole.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6]
    with pytest.raises(ValueError, match="is of a run with options"):
        train(again, open_body, mixture(people), replace(config, seed=1), state=tmp_path / "p.pt")


def test_only_what_lies_behind_the_stage_moves(people, open_body):
    network, before = OpenRegressor.make_tiny(), OpenRegressor.make_tiny()
    train(network, open_body, mixture(people), HEAD)
    for name, value in network.state_dict().items():
        moved = not torch.equal(value, before.state_dict()[name])
        assert moved == (name.startswith("head.") and "certainty" not in name
                         and not name.startswith("head.feature_")
                         and name != "head.mean_pose"), name  # fmt: skip


def test_it_learns(people, open_body):
    network = OpenRegressor.make_tiny()
    config = replace(HEAD, steps=80, batch=8, lr=3e-3, validate_every=40, ema=0.0)
    losses = train(network, open_body, mixture(people), config)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])


def test_the_frozen_part_gives_what_the_whole_network_would(people, open_body):
    network = OpenRegressor.make_tiny()
    states = FrozenStates(network, "head")
    still = replace(HEAD, augment=PLAIN)
    learned, held = mixture(people).split(0.4)
    feed = StageFeed(states, learned.parts[0], held, learned, still)
    state, labels = next(feed.batches(0))
    output = feed.forward(network, state)
    from eft_fast.training.crops import CropReader

    generator = torch.Generator().manual_seed(0)
    rows = learned.draw(still.batch, generator)
    img, plain = CropReader(learned.parts[0], network)(rows, generator)
    for mine, theirs in zip(output, network(img), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    for mine, theirs in zip(labels, plain, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    # Who is known already is not computed again.
    assert torch.equal(
        states.rows(learned.parts[0].take([1, 0])), states.rows(learned.parts[0])[[1, 0]]
    )


def test_photos_are_split_by_name_and_drawn_by_share(people):
    twice = Mixture((people, people.take(list(range(4)))), (1.0, 0.0))
    learned, held = twice.split(0.4)
    names = [{Path(str(photo)).name for photo in part.photos} for part in (*learned.parts, held)]
    assert not set.union(*names[:-1]) & names[-1]
    assert names[-1]
    sizes = [len(part) for part in learned.parts]
    drawn = learned.draw(500, torch.Generator().manual_seed(0))
    assert int(drawn.max()) < sizes[0]
    three = Mixture(learned.parts, (1.0, 3.0))
    share = (three.draw(4000, torch.Generator().manual_seed(0)) >= sizes[0]).float().mean()
    assert abs(float(share) - 0.75) < 0.03
    for shares, message in (
        ((1.0,), "one share per set expected, got 1 for 2"),
        ((0.0, 0.0), "shares must be positive"),
        ((1.0, float("nan")), "shares must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            Mixture(twice.parts, shares)
    with pytest.raises(ValueError, match="photos for training and for validation expected"):
        Mixture((people.take([0]),), (1.0,)).split(0.5)


def test_workers_change_nothing(people, open_body):
    alone, helped = OpenRegressor.make_tiny(), OpenRegressor.make_tiny()
    train(alone, open_body, mixture(people), QUICK)
    train(helped, open_body, mixture(people), replace(QUICK, workers=1))
    assert torch.equal(weights(alone), weights(helped))


def test_options_that_do_not_go_together(people, open_body):
    network = OpenRegressor.make_tiny()
    with pytest.raises(ValueError, match="crops can only be mirrored"):
        train(network, open_body, mixture(people), replace(HEAD, augment=AugmentConfig()))
    with pytest.raises(ValueError, match="stage must be one of"):
        train(network, open_body, mixture(people), replace(HEAD, stage="neck"))
    with pytest.raises(ValueError, match="validation must be a share between 0 and 1"):
        LabelConfig(validation=0.0)
    with pytest.raises(ValueError, match="labels must be one of all, 2d"):
        DataSource(Path("x"), labels="3d")
    with pytest.raises(ValueError, match="at least one source"):
        LabelRun(Path("x"), ())


def test_a_fresh_start_knows_the_prior_only(people):
    network = make_start(FRESH, people, 0)
    assert isinstance(network, OpenRegressor)
    assert network.head.certainty is None
    again, other = make_start(FRESH, people, 0), make_start(FRESH, people, 1)
    assert torch.equal(weights(network), weights(again))
    assert not torch.equal(weights(network), weights(other))
    shipped = make_start("open", people, 0)
    assert isinstance(shipped, OpenRegressor)
    assert shipped.joint_confidence(shipped.features(torch.zeros(1, 3, 256, 256))) is None


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.npz"
    save_open_regressor(OpenRegressor.make_tiny(), path, licence="Apache-2.0", source_sha256="0")
    return path


def run_command(capsys, *arguments) -> tuple[int, str, str]:
    code = main(["train", "--quiet", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_command_trains_and_map_runs_on_the_result(
    rendered_set, tiny, tmp_path, capsys, monkeypatch
):
    """Fits of a set, a training on them, and a fit by what was trained, from the shell."""
    fits = tmp_path / "fits"
    annotations = rendered_set / "annotations.json"
    assert main([
        "fit", str(rendered_set / "images"), "--annotations", str(annotations), "--out", str(fits),
        "--method", "none", "--regressor", str(tiny), "--no-pictures", "--quiet", "--min-area", "1",
        "--min-keypoints", "4",
    ]) == 0  # fmt: skip
    capsys.readouterr()
    work = tmp_path / "work"
    common = ["--start", tiny, "--steps", 2, "--batch", 2, "--calibration", 0, "--json"]
    code, out, err = run_command(
        capsys, "--data", fits, annotations, rendered_set, "--share", 1, 2, 1, "--all-fits",
        "--photos", rendered_set / "images", "--work", work, *common,
    )  # fmt: skip
    assert code == 0, err
    facts = json.loads(out)
    assert facts["people"] > 20
    trained = eft_fast.load_regressor(facts["weights"])
    assert not torch.equal(
        weights(trained), weights(eft_fast.load_regressor(tiny))[: len(weights(trained))]
    )
    # Again with the same options: nothing is left to do; with others: refused.
    assert run_command(
        capsys, "--data", fits, annotations, rendered_set, "--share", 1, 2, 1, "--all-fits",
        "--photos", rendered_set / "images", "--work", work, *common,
    )[0] == 0  # fmt: skip


def test_the_file_says_what_the_options_say(rendered_set, tiny, tmp_path, capsys):
    config = tmp_path / "train.toml"
    config.write_text(
        f"""
work = "work"
start = "tiny.npz"
calibration = 0
[[data]]
path = "{rendered_set}"
labels = "2d"
[options]
steps = 1
batch = 2
validation = 0.4
[options.augment]
cut = 0.0
"""
    )
    code, _, err = run_command(capsys, "--config", config, "--json")
    assert code == 0, err
    assert (tmp_path / "work" / "regressor.npz").is_file()
    code, _, err = run_command(capsys, "--config", config, "--steps", "2", "--json")
    assert code == 2
    assert "is of a run with options" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--data", "none"), "--work expected beside --data"),
        (("--data", "none", "--work", "w"), "no file or folder"),
        (("--data", ".", "--work", "w", "--motion", "."), "--motion is about rendered people"),
        (("--data", ".", "--work", "w", "--share", "1", "2"), "one per --data expected, got 2"),
        (("--work", "w", "--labels", "2d"), "--labels goes with --data"),
        (("--data", ".", "--work", "w", "--start", "no.npz"), "--start"),
    ],
)
def test_mistakes_get_one_sentence(arguments, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_command(capsys, *arguments)
    assert code == 2
    assert sentence in err
    assert out == ""
    assert err.count("\n") == 1


@pytest.mark.slow
def test_weights_of_hmr_are_read_back(tmp_path):
    network = Hmr().eval()
    again = eft_fast.load_regressor(save_weights(network, tmp_path))
    img = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    for mine, theirs in zip(network(img), again(img), strict=True):
        assert torch.equal(mine, theirs)
