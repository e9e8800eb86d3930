"""A user's SPIN checkpoint from the command line: calibrate on its body, then fit under it."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from eft_fast.body import load_body
from eft_fast.body.model_io import to_smplx_arrays
from eft_fast.cli import main
from eft_fast.models import load_regressor
from eft_fast.models.error_covariance import covariance_beside, load_error_covariance
from eft_fast.models.hmr import Hmr
from eft_fast.result import FitResult
from tests.models.plain_hmr import make_state

#: Fewest people that have a covariance.
PEOPLE = "85"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of made-up weights, a body as SMPL is published, photos and annotations."""
    out = tmp_path_factory.mktemp("spin")
    torch.save({"model": make_state(Hmr(), seed=3)}, out / "model_checkpoint.pt")
    # The open body under SMPL's name: what it weighs, and how many vertices it has, are SMPL's.
    content = to_smplx_arrays(load_body().arrays) | {"model_id": "smpl-neutral"}
    (out / "SMPL_NEUTRAL.pkl").write_bytes(pickle.dumps(content))
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in (1, 2, 3):
        pixels = rng.integers(0, 256, (240, 200, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(out / f"{number}.png")
        points = np.column_stack([rng.uniform(60, 140, 17), rng.uniform(30, 210, 17)])
        annotations.append({
            "id": number, "image_id": number, "category_id": 1, "iscrowd": 0,
            "bbox": [50, 20, 100, 200], "area": 20000.0, "num_keypoints": 17,
            "keypoints": np.column_stack([points, np.full(17, 2)]).ravel().tolist(),
        })  # fmt: skip
        images.append({"id": number, "file_name": f"{number}.png", "width": 200, "height": 240})
    (out / "people.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return out


def fit(folder, out, *more):
    checkpoint, body = folder / "model_checkpoint.pt", folder / "SMPL_NEUTRAL.pkl"
    return main(
        ["fit", str(folder), "--annotations", str(folder / "people.json"), "--method", "map",
         "--regressor", str(checkpoint), "--body", str(body), "--no-pictures", "--quiet", "--json",
         "--out", str(out), *more]
    )  # fmt: skip


@pytest.mark.slow
def test_calibrate_then_map(folder, tmp_path, capsys):
    checkpoint = folder / "model_checkpoint.pt"
    assert fit(folder, tmp_path / "none") == 2
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert "no error covariance is known of regressor hmr-" in sentence
    assert "eft-fast calibrate" in sentence

    beside = covariance_beside(checkpoint)
    arguments = ["calibrate", "--regressor", str(checkpoint), "--count", PEOPLE, "--quiet"]
    arguments += ["--body", str(folder / "SMPL_NEUTRAL.pkl"), "--out", str(beside), "--json"]
    assert main(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["body"] == "smpl"
    assert summary["weights_hash"] == load_regressor(checkpoint).weights_hash
    found = load_error_covariance(load_regressor(checkpoint), beside)
    assert found.people == int(PEOPLE)

    assert fit(folder, tmp_path / "fits") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["method"], summary["mode"], summary["people"]) == ("map", "residual", 3)
    assert summary["kp_error_px"] < summary["init_kp_error_px"]
    body = load_body(folder / "SMPL_NEUTRAL.pkl")
    fits = FitResult.load(tmp_path / "fits" / "fits.npz", body=body)
    assert bool(fits.joint_sigma_mm.isfinite().all())

    # The same file from elsewhere, by name: the same fits, bitwise.
    elsewhere = tmp_path / "errors.npz"
    beside.rename(elsewhere)
    assert fit(folder, tmp_path / "named", "--covariance", str(elsewhere)) == 0
    again = FitResult.load(tmp_path / "named" / "fits.npz", body=body)
    assert torch.equal(again.pred_cam, fits.pred_cam)
