"""People in photos by the exported detector: as torch finds them, without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from eft_fast.imaging import load_image
from eft_fast.map_fit.config import MapConfig
from eft_fast.serving import PersonFinder, Predictor
from tests.conftest import REPO

DEMO = REPO / "eft_fast" / "assets" / "demo"
PHOTO = DEMO / "cameraman.png"


def test_an_export_without_a_detector_says_how_to_get_one(tiny_export):
    predictor = Predictor(tiny_export, provider="cpu", threads=1)
    with pytest.raises(FileNotFoundError, match="export again with --detector"):
        predictor.find([PHOTO])
    with pytest.raises(ValueError, match=r"provider must be one of .* got 'openvino'"):
        PersonFinder(tiny_export, provider="openvino")
    with pytest.raises(TypeError, match="photos must be a sequence"):
        predictor.find(str(PHOTO))


@pytest.fixture(scope="module")
def predictor(detector_export) -> Predictor:
    return Predictor(detector_export, provider="cpu", threads=1)


@pytest.mark.slow
def test_people_are_those_that_torch_finds(predictor, shared_dir):
    from eft_fast.models import detect_people

    folder = shared_dir / "data" / "coco_photos_open" / "train"
    photos = [load_image(path) for path in [PHOTO, *sorted(folder.glob("*.jpg"))[:5]]]
    count = 0
    for photo in photos:
        found, expected = predictor.finder.find(photo), detect_people(photo)
        assert len(found) == len(expected)
        count += len(found)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.box, other.box, atol=0.01)
            assert one.score == pytest.approx(other.score, abs=1e-4)
            far = np.abs(one.keypoints - other.keypoints)
            # Two cells may be as good as each other, and a grey level round up or down.
            assert np.median(far) < 0.01
            assert (far < (0.05, 0.05, 0.005)).all(1).mean() >= 0.8
    assert count > 5


@pytest.mark.slow
def test_people_go_on_to_prediction_and_fit(predictor, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    blank = np.full((90, 120, 3), 114, np.uint8)
    people = predictor.find([broken, PHOTO, blank, load_image(PHOTO)])
    assert people.photo_index.tolist() == [1, 3]
    assert people.photos[0] == PHOTO
    assert [bool(text) for text in people.message] == [True, False, False, False]
    assert "not a picture" in people.message[0]
    np.testing.assert_array_equal(people.boxes[0], people.boxes[1])
    content = json.loads((DEMO / "people.json").read_text())
    image = next(each for each in content["images"] if each["file_name"] == PHOTO.name)
    label = next(each for each in content["annotations"] if each["image_id"] == image["id"])
    wanted = np.reshape(label["keypoints"], (17, 3))
    far = np.linalg.norm(people.keypoints[0, :, :2] - wanted[:, :2], axis=1)[wanted[:, 2] > 0]
    assert np.median(far) < 0.05 * np.sqrt(np.prod(label["bbox"][2:]))

    bodies = predictor(people.photos, people.boxes)
    assert np.isfinite(bodies.betas).all()
    config = MapConfig(keypoint_noise=people.noise)
    fits = predictor.fit(people.photos, people.keypoints, people.boxes, config=config)
    assert (fits.kp_error_px < fits.init_kp_error_px).all()
    named = predictor.fit(
        people.photos,
        people.keypoints,
        people.boxes,
        config=MapConfig(keypoint_noise="detector"),
    )
    np.testing.assert_array_equal(named.betas, fits.betas)
    plain = predictor.fit(people.photos, people.keypoints, people.boxes)
    assert np.abs(plain.betas - fits.betas).max() > 1e-4, "the curve does not count"

    nobody = predictor.find([blank])
    assert (len(nobody), nobody.keypoints.shape) == (0, (0, 17, 3))
    assert len(predictor(nobody.photos, nobody.boxes)) == 0


@pytest.mark.slow
def test_predict_finds_and_fits_without_torch(detector_export, tmp_path):
    """In a process that cannot import torch."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from eft_fast.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    blank = tmp_path / "blank.png"
    from PIL import Image

    Image.new("RGB", (80, 60)).save(blank)
    out = tmp_path / "people.npz"
    command = [sys.executable, "-c", program, "predict", str(PHOTO), str(blank), "--json"]
    command += ["--model", str(detector_export), "--out", str(out), "--find", "--threads", "1"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["people"] == 1
    assert summary["predictions"][0]["photo"] == str(PHOTO)
    assert any("no person was found in blank.png" in text for text in summary["problems"])
    assert "kp_error_px" not in summary
    done = subprocess.run(
        [*command, "--fit"], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["kp_error_px"] < summary["init_kp_error_px"]
    with np.load(out) as file:
        assert file["keypoints"].shape == (1, 17, 3)
    alone = [word for word in command if word != str(PHOTO)]
    done = subprocess.run(alone, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nobody to predict: detector: no person was found in blank.png" in done.stderr
