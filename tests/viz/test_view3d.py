"""The page in space: what it holds, and what it shows in a browser. The latter needs a Chromium."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eft_fast.body import load_body
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.result import FitResult, Prediction, SmplParams
from eft_fast.viz.raster import render_mesh
from eft_fast.viz.scene import find_camera, place_people
from eft_fast.viz.view3d import write_view

GREY = np.full((240, 320, 3), 128, np.uint8)


@pytest.fixture
def result(tmp_path) -> FitResult:
    """Two people before one pinhole in ``a.png``, and one whose photo is not there."""
    Image.fromarray(GREY).save(tmp_path / "a.png")
    turns = axis_angle_to_matrix(0.2 * torch.randn(3, 24, 3))
    turns[:, 0] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    params = SmplParams.from_rotmat(turns, torch.zeros(3, 10))
    cam = torch.tensor([[0.8, 0.0, 0.1], [0.8, 0.1, 0.0], [0.8, 0.0, 0.0]])
    start = SmplParams.from_rotmat(turns.roll(1, 0), torch.zeros(3, 10))
    nan = torch.full((3,), float("nan"))
    pinhole = torch.tensor([[400.0, 0, 159.5], [0, 400, 119.5], [0, 0, 1]])
    return FitResult(
        params=params, pred_cam=cam, init=Prediction(start, cam.clone()),
        bbox_center=torch.tensor([[100.0, 120], [230, 110], [160, 120]]),
        bbox_scale=torch.tensor([0.9, 0.7, 0.8]), loss=nan, init_loss=nan,
        kp_error_px=torch.tensor([1.234, float("nan"), 2]), init_kp_error_px=torch.ones(3),
        steps=torch.zeros(3, dtype=torch.int64), stop_reason=("converged",) * 3,
        message=("",) * 3, keypoints=torch.zeros(3, 17, 3), joint_set="coco17",
        body_id="open-1", regressor_id="open-1", method="map", mode="full",
        intrinsics=pinhole.repeat(3, 1, 1), id=("7", "8", "9"),
        photo=(str(tmp_path / "a.png"), str(tmp_path / "a.png"), str(tmp_path / "gone.png")),
        _body=load_body(),
    )  # fmt: skip


def content_of(path: Path) -> dict[str, Any]:
    page = path.read_text()
    found = re.search(r'<script id="content" type="application/json">(.*?)</script>', page, re.S)
    return json.loads(found[1])


def unpack(mesh: dict[str, Any]) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(mesh["data"]), "<u2").reshape(-1, 3)
    return np.array(mesh["low"]) + data * np.array(mesh["step"])


def test_the_page_holds_the_people_of_each_photo(result, tmp_path):
    names = ["a.png", "a.png", "</script><b>&"]
    path = tmp_path / "sub" / "view.html"
    assert write_view(path, result, names) == [0, 1, 2]
    page = path.read_text()
    code = re.sub(r'<script id="content".*?</script>', "", page, flags=re.S)
    assert not re.search(
        r"https?:|src=|@import|XMLHttp|import\(|fetch\(|<link", code
    )  # nothing is loaded
    content = content_of(path)
    faces = np.frombuffer(base64.b64decode(content["faces"]), "<u4").reshape(-1, 3)
    assert np.array_equal(faces, load_body().faces)
    first, second = content["scenes"]
    assert [scene["name"] for scene in content["scenes"]] == ["a.png", "</script><b>&"]
    assert [person["number"] for person in first["people"]] == [1, 2]
    assert [person["after"] for person in first["people"]] == [1.23, None]
    photo = Image.open(io.BytesIO(base64.b64decode(first["photo"].split(",")[1])))
    assert photo.size == (320, 240)
    assert second["photo"] == ""
    assert (first["assumed"], first["focal"], first["size"]) == (False, [400, 400], [320, 240])
    for k, which in ((0, "final"), (1, "init")):
        body = first["people"][k]["bodies"][which]
        placed = (result.vertices(which)[k] + result.cam_transl(which)[k]).numpy() * [1, -1, -1]
        np.testing.assert_allclose(unpack(body), placed, atol=5e-5)
        joints = result.joints3d("smpl24", which)[k] + result.cam_transl(which)[k]
        np.testing.assert_allclose(body["joints"], joints.numpy() * [1, -1, -1], atol=2e-4)


def test_people_of_different_cameras_come_into_one(result):
    """Each keeps place and size in the picture; who is half as large stands twice as far away."""
    own = result.intrinsics.clone()
    own[1, :2, :2] *= 3
    own[1, 2, 2] = 1
    part = replace(result, intrinsics=own)[:2]
    camera = find_camera(part, (320, 240))
    assert camera.is_assumed
    assert camera.matrix[0, 0] == pytest.approx(400)  # the diagonal of 320 x 240
    places = place_people(part, camera)
    pixels = places[:, :2] / places[:, 2:] * 400 + [159.5, 119.5]
    weak = 100 * part.bbox_scale[:, None] * part.pred_cam[:, 1:] + part.bbox_center
    np.testing.assert_allclose(pixels, weak, atol=1e-3)
    scale = 100 * part.bbox_scale * part.pred_cam[:, 0]
    np.testing.assert_allclose(400 / places[:, 2], scale, rtol=1e-5)
    assert not find_camera(result[:2], (320, 240)).is_assumed
    alone = find_camera(part[1], None)
    assert (alone.is_assumed, alone.matrix[0, 0]) == (False, 1200)


def test_limits_order_and_failed_fits(result, tmp_path):
    betas = result.params.betas.clone()
    betas[0] = float("nan")
    failed = replace(result, params=replace(result.params, betas=betas))
    path = tmp_path / "view.html"
    assert write_view(path, failed, list("abc"), limit=1) == [1]
    assert content_of(path)["scenes"][0]["people"][0]["number"] == 2
    assert "1 further people" in path.read_text()
    assert "1 people have no finite fit" in path.read_text()
    assert write_view(path, result, list("abc"), order=[2, 1, 0]) == [2, 0, 1]
    assert write_view(path, result, list("abc"), photos=[GREY, "", GREY]) == [0, 2, 1]
    assert write_view(tmp_path / "none.html", failed[:1], ["a"]) == []
    assert not (tmp_path / "none.html").exists()
    with pytest.raises(ValueError, match="one name per fit expected, got 1 for 3"):
        write_view(path, result, ["a"])
    with pytest.raises(ValueError, match="one photo per fit expected, got 1 for 3"):
        write_view(path, result, list("abc"), photos=[GREY])
    with pytest.raises(ValueError, match="got the folder"):
        write_view(tmp_path, result, list("abc"))


def pixels_of(page: Any) -> np.ndarray:
    page.wait_for_function("document.querySelector('#view').dataset.ready === 'true'")
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    shot = page.locator("#view").screenshot()
    pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)
    return pixels[4:-4, 4:-4]  # without the ring of the focus


def is_blue(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 2] - pixels[..., 0] > 25


def is_orange(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 0] - pixels[..., 2] > 25


def test_from_its_camera_the_bodies_lie_on_the_photo(result, tmp_path, open_page):
    """What is blue on the canvas is what the projection of the fit covers in the photo."""
    write_view(tmp_path / "view.html", result, ["a.png", "a.png", "gone.png"])
    page = open_page(tmp_path / "view.html", width=1000, height=800)
    page.click("[data-toggle=ground]")
    page.click("[data-toggle=others]")
    drawn = pixels_of(page)
    height, width = (side + 8 for side in drawn.shape[:2])
    scale = 0.98 * min(width / 320, height / 240)
    points = result.to_photo(result.vertices())[0].double().numpy()
    points[:, :2] = (points[:, :2] - [159.5, 119.5]) * scale + [(width - 1) / 2, (height - 1) / 2]
    points[:, 2] *= scale
    expected = render_mesh(points, load_body().faces, height=height, width=width).rgba[..., 3] > 127
    expected = expected[4:-4, 4:-4]
    blue = is_blue(drawn)
    assert (blue & expected).sum() / (blue | expected).sum() > 0.97
    # The photo around the bodies has its own colour and its own size.
    grey = (np.abs(drawn - 128) < 4).all(-1) | blue
    assert grey.any(0).sum() == pytest.approx(320 * scale, abs=3)
    assert grey.any(1).sum() == pytest.approx(240 * scale, abs=3)


def test_buttons_keys_and_address(result, tmp_path, open_page):
    write_view(tmp_path / "view.html", result, ["a.png", "a.png", "gone.png"])
    page = open_page(tmp_path / "view.html", width=1000, height=800)
    assert page.locator("#who option").all_inner_texts() == [
        "1  a.png  7", "2  a.png  8", "3  gone.png  9"
    ]  # fmt: skip
    assert "1.23 px of the fit; height 1." in page.inner_text("#facts")
    both = is_blue(pixels_of(page)).sum()
    page.keyboard.press("6")
    one = is_blue(pixels_of(page)).sum()
    assert 0 < one < both
    page.click("[data-toggle=init]")
    assert page.get_attribute("[data-toggle=init]", "aria-pressed") == "true"
    page.keyboard.press("2")  # the fit goes
    started = pixels_of(page)
    assert is_orange(started).sum() > 1000
    assert is_blue(started).sum() == 0
    page.keyboard.press("2")
    page.keyboard.press("3")
    assert page.get_attribute("[data-toggle=joints]", "aria-pressed") == "true"
    assert (pixels_of(page) > 240).all(-1).sum() > 50  # rims of the joints
    page.keyboard.press("k")
    assert page.input_value("#who") == "1"
    assert page.evaluate("location.hash") == "#2"
    page.goto((tmp_path / "view.html").as_uri() + "#3")
    assert page.input_value("#who") == "2"
    page.click("#next")
    assert page.input_value("#who") == "0"
    before = pixels_of(page)
    page.focus("#view")
    page.keyboard.press("ArrowLeft")
    assert np.abs(pixels_of(page) - before).max() > 50
    page.keyboard.press("c")
    assert np.abs(pixels_of(page) - before).max() < 8


def test_mouse_turns_and_takes_a_person(result, tmp_path, open_page):
    write_view(tmp_path / "view.html", result, ["a.png", "a.png", "gone.png"])
    page = open_page(tmp_path / "view.html", width=1000, height=800)
    before = pixels_of(page)
    box = page.locator("#view").bounding_box()
    scale = 0.98 * min(box["width"] / 320, box["height"] / 240)
    pelvis = result.to_photo(result.joints3d("smpl24"))[1, 0].numpy()
    x = box["x"] + box["width"] / 2 + (pelvis[0] - 159.5) * scale
    y = box["y"] + box["height"] / 2 + (pelvis[1] - 119.5) * scale
    x, y = float(x), float(y)
    page.mouse.click(x, y)
    assert page.input_value("#who") == "1"
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 20)
    page.mouse.up()
    assert page.input_value("#who") == "1"
    turned = pixels_of(page)
    assert np.abs(turned - before).max() > 50
    page.mouse.wheel(0, 600)
    assert is_blue(pixels_of(page)).sum() < is_blue(turned).sum()


def test_play_steps_through_the_photos(result, tmp_path, open_page):
    write_view(tmp_path / "view.html", result, ["a.png", "a.png", "gone.png"])
    page = open_page(tmp_path / "view.html")
    page.click("#play")
    page.wait_for_function("document.querySelector('#who').value === '2'")
    page.wait_for_function("document.querySelector('#who').value === '0'")
    page.click("#play")
    assert page.get_attribute("#play", "aria-pressed") == "false"


def test_without_webgl_the_page_says_what_to_do(result, tmp_path, open_page):
    write_view(tmp_path / "view.html", result, ["a.png", "a.png", "</li><b>x"])
    script = "HTMLCanvasElement.prototype.getContext = () => null"
    page = open_page(tmp_path / "view.html", script=script)
    assert "This browser has no WebGL 2" in page.inner_text("#fallback")
    assert "convert DIR --to glb" in page.inner_text("#fallback")
    assert page.locator("#list li").count() == 3
    assert "3 </li><b>x 9: keypoint error" in page.inner_text("#list")
    assert page.is_hidden("#view")


@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_wider_than_the_screen(result, tmp_path, open_page, width):
    name = "a_very_long_name_of_a_photo_" * 6 + ".jpg"
    write_view(tmp_path / "view.html", result, [name] * 3)
    page = open_page(tmp_path / "view.html", width=width, height=800)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(
        "[...document.querySelectorAll('button')].every(b => b.scrollWidth <= b.clientWidth + 1)"
    )
    assert page.locator("#view").bounding_box()["height"] > 400
