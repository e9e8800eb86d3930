"""SPIN on photos: the order of people, mirrored crops, and a run from file to file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import eft_fast
from eft_fast.models.open_file import save_open_regressor
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.smplify.config import SmplifyConfig
from eft_fast.smplify.spin import SpinConfig, SpinStep
from eft_fast.training import spin

QUICK = SpinConfig(fit=SmplifyConfig(max_steps=4), lr=1e-3, accept=1e9)


@pytest.fixture(scope="module")
def body():
    return eft_fast.load_body()


def make_people(size: int, count: int = 5):
    generator = torch.Generator().manual_seed(3)
    img = torch.randn(count, 3, size, size, generator=generator)
    keypoints = torch.rand(count, 49, 3, generator=generator) * 1.4 - 0.7
    keypoints[..., 2] = 1
    return img, keypoints


def test_everybody_is_seen_and_a_seed_repeats(body):
    seen: list[int] = []

    def train(seed: int) -> tuple[torch.Tensor, list[SpinStep]]:
        regressor = OpenRegressor.make_tiny()
        img, keypoints = make_people(regressor.input_size)

        def read(rows):
            seen.extend(rows.tolist())
            return img[rows], keypoints[rows]

        steps: list[SpinStep] = []
        run = spin.SpinRun(steps=6, batch=2, seed=seed, spin=QUICK)
        best = spin.train_spin(
            regressor, body, read, 5, run, on_update=lambda _, step: steps.append(step)
        )
        assert best.has_fit.all()
        return best.rotmat, steps

    first, steps = train(0)
    assert sorted(seen[:5]) == sorted(seen[5:10]) == [0, 1, 2, 3, 4]
    assert [len(step.loss) for step in steps] == [2, 2, 1] * 2
    assert torch.equal(train(0)[0], first)
    assert not torch.equal(train(1)[0], first)


def test_mirrored_crops_and_keypoints_stay_together():
    """A bright pixel and the keypoint on it move to the same place; twice is nothing."""
    img = torch.zeros(2, 3, 64, 64)
    img[:, :, 10, 5] = 1
    keypoints = torch.zeros(2, 49, 3)
    left = 25  # right ankle of the second block
    keypoints[:, left] = torch.tensor([(5 - 32) / 32, (10 - 32) / 32, 1.0])
    turned, moved = spin.mirror_people(img, keypoints, torch.tensor([True, False]))
    assert turned[0, 0].nonzero().tolist() == [[10, 58]]
    row = int((moved[0, :, 2] > 0).nonzero())
    assert row == 30
    assert moved[0, row, 0] * 32 + 32 == pytest.approx(58)
    assert torch.equal(turned[1], img[1])
    assert torch.equal(moved[1], keypoints[1])
    again = spin.mirror_people(turned, moved, torch.tensor([True, False]))
    assert torch.equal(again[0], img)
    torch.testing.assert_close(again[1][..., :2] * keypoints[..., 2:], keypoints[..., :2])


@pytest.fixture
def dataset(tmp_path):
    """Three people on two photos, of which one does not exist."""
    rng = np.random.default_rng(1)
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(rng.integers(0, 256, (160, 160, 3), dtype=np.uint8)).save(photos / "a.png")
    (photos / "b.png").write_bytes(b"no picture")
    annotations = []
    for number, image in enumerate((1, 1, 2)):
        keypoints = np.concatenate([rng.uniform(30, 130, (17, 2)), np.full((17, 1), 2)], 1)
        annotations.append({
            "id": number + 1, "image_id": image, "category_id": 1, "iscrowd": 0, "area": 14400,
            "bbox": [20, 20, 120, 120], "num_keypoints": 17,
            "keypoints": keypoints.ravel().tolist(),
        })  # fmt: skip
    document = {
        "images": [{"id": i, "file_name": name, "width": 160, "height": 160}
                   for i, name in ((1, "a.png"), (2, "b.png"))],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }  # fmt: skip
    path = tmp_path / "people.json"
    path.write_text(json.dumps(document))
    return photos, path


def test_a_run_from_file_to_file(dataset, tmp_path, capsys):
    photos, path = dataset
    weights = tmp_path / "tiny.npz"
    save_open_regressor(OpenRegressor.make_tiny(), weights, licence="Apache-2.0", source_sha256="0")
    arguments = ["--photos", str(photos), "--annotations", str(path)]
    arguments += ["--out", str(tmp_path / "run")]
    arguments += ["--regressor", str(weights), "--steps", "2", "--batch", "3"]
    assert spin.main(arguments) == 0
    printed = capsys.readouterr()
    # The reader leaves out whom it cannot show.
    assert json.loads(printed.out) == {"people": 2, "fitted": 2}
    assert printed.err.count("update") == 2
    trained = eft_fast.load_regressor(str(tmp_path / "run" / "spin.npz"))
    before = OpenRegressor.make_tiny().state_dict()
    assert any(not torch.equal(before[name], value) for name, value in trained.state_dict().items())
    with np.load(tmp_path / "run" / "best_fits.npz") as fits:
        assert fits["rotmat"].shape == (2, 24, 3, 3)
        assert fits["has_fit"].all()


def test_wrong_use_is_refused(body, dataset, tmp_path, capsys):
    with pytest.raises(ValueError, match="at least one person expected"):
        spin.train_spin(OpenRegressor.make_tiny(), body, make_people, 0, spin.SpinRun())
    with pytest.raises(ValueError, match="steps and batch must be at least 1, got 0 and 64"):
        spin.SpinRun(steps=0)
    with pytest.raises(ValueError, match="mirror must be a share"):
        spin.SpinRun(mirror=2.0)
    arguments = ["--photos", str(tmp_path), "--annotations", str(tmp_path / "none.json")]
    assert spin.main([*arguments, "--out", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
