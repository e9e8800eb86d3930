"""The demo of examples/web in a browser: its answers are Python's, and nothing leaves the page.

Needs a Chromium, the extra onnx, and npm once, for ONNX Runtime; without one of them it skips.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eft_fast.imaging import Crop, crop_image, load_image
from eft_fast.serving import Predictor

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO = ROOT / "eft_fast" / "assets" / "demo"
#: How far the browser may be from Python: the same networks by another build of the runtime. Boxes
#: differ in their last digits, so that a pixel of the crop may round to the next grey.
BOX_PX, VERTEX_M, JOINT_PX = 0.01, 1e-3, 0.5
#: Vertices of the same crop, metres.
SAME_CROP_M = 2e-4

sys.path.insert(0, str(ROOT / "tools"))
import build_web  # noqa: E402


@pytest.fixture(scope="module")
def runtime():
    try:
        return build_web.fetch_runtime(ROOT / "build" / "npm")
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def site(browser, runtime, detector_export, tmp_path_factory):
    """The demo with a tiny network."""
    folder = tmp_path_factory.mktemp("web") / "site"
    build_web.build(folder, detector_export, runtime)
    return folder


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """Two people beside each other, 512 x 256."""
    path = tmp_path_factory.mktemp("photos") / "street.png"
    runner = load_image(DEMO / "runner.png")
    Image.fromarray(np.concatenate([runner, runner[:, ::-1]], 1)).save(path)
    return path


def start(open_page, address, **options):
    page = open_page(address, **options)
    page.wait_for_selector("body[data-ready]", timeout=120_000)
    return page


def answer(page, run=1):
    page.wait_for_selector(f"body[data-done='{run}']", timeout=120_000)
    people = page.evaluate(
        "demo.answer.people.map(p => ({ box: p.box, score: p.score, cam: p.cam, betas: p.betas, "
        "mesh: [...p.meshM], joints: [...p.joints] }))"
    )
    for one in people:
        one["mesh"] = np.array(one["mesh"]).reshape(-1, 3)
        one["joints"] = np.array(one["joints"]).reshape(-1, 3)[:, :2]
    return people


def check(people, photo, export):
    """The browser's people are Python's."""
    predictor = Predictor(export, provider="cpu")
    found = predictor.find([photo])
    wanted = predictor(found.photos, found.boxes)
    assert len(people) == len(found) > 0
    worst = np.zeros(4)
    for k, one in enumerate(people):
        differences = (
            np.abs(np.array(one["box"]) - found.boxes[k]).max() / BOX_PX,
            abs(one["score"] - found.score[k]) / 1e-3,
            np.abs(one["mesh"] - wanted.vertices[k]).max() / VERTEX_M,
            np.abs(one["joints"] - wanted.joints_2d_px[k]).max() / JOINT_PX,
        )
        worst = np.maximum(worst, differences)
    assert (worst < 1).all(), f"box, score, mesh and joints over what is allowed: {worst}"
    return worst


def test_bodies_are_those_of_python_and_no_pixel_leaves(
    site, serve, open_page, street, detector_export
):
    address, asked = serve(site)
    page = start(open_page, address)
    page.set_input_files("#file", str(street))
    check(answer(page), street, detector_export)
    assert "2 people in" in page.inner_text("#said")
    page.click("#people li:nth-child(2) button")
    assert page.get_attribute("#people li:nth-child(2) button", "aria-pressed") == "true"
    # Files are fetched; nothing is sent, and nothing comes from elsewhere: the page's policy.
    assert {method for method, _, _ in asked} == {"GET"}
    assert {length for _, _, length in asked} == {None}
    policy = page.get_attribute("meta[http-equiv]", "content")
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    names = {path.lstrip("/").split("?")[0] or "index.html" for _, path, _ in asked}
    sizes = json.loads((site / "files.json").read_text()) | {"files.json": 0}
    assert names == {name for name in sizes if build_web.is_fetched(name)}


def test_another_margin_is_read_from_the_export(site, serve, open_page, detector_export, tmp_path):
    folder = shutil.copytree(site, tmp_path / "site")
    card_path = folder / "model" / "export.json"
    card_path.write_text(json.dumps(json.loads(card_path.read_text()) | {"box_margin": 1.1}))
    address, _ = serve(folder)
    page = start(open_page, address)
    page.set_input_files("#file", str(DEMO / "runner.png"))
    (one,) = answer(page)
    predictor = Predictor(detector_export, provider="cpu")
    crop = Crop.from_box(one["box"], predictor.card.input_size, margin=1.1)
    pixels = crop_image(load_image(DEMO / "runner.png"), crop)
    wanted = predictor.infer(pixels[None])["vertices"][0]
    assert np.abs(one["mesh"] - wanted).max() < SAME_CROP_M
    other = predictor([DEMO / "runner.png"], [one["box"]]).vertices[0]
    assert np.abs(one["mesh"] - other).max() > 10 * SAME_CROP_M, "the margin changes nothing"


@pytest.mark.slow
def test_crops_are_the_package_s_to_the_byte(site, serve, open_page):
    rng = np.random.default_rng(3)
    photo = rng.integers(0, 256, (90, 140, 3), dtype=np.uint8)
    address, _ = serve(site)
    page = start(open_page, address)
    data = np.concatenate([photo, np.full((90, 140, 1), 255, np.uint8)], 2).ravel().tolist()
    boxes = [[10, 5, 60, 70], [-40.3, -20.1, 90.7, 80], [60.5, 40.25, 300, 11], [7, 8, 9.5, 6],
             [139, 89, 3000, 20], [30, 20, 256 / 1.2, 1], [500, 500, 20, 20]]  # fmt: skip
    boxes += rng.uniform([-50, -50, 5, 5], [140, 90, 400, 400], (12, 4)).tolist()
    crops = page.evaluate(
        """async ([data, boxes]) => {
          const { cropAround, cropImage } = await import("./imaging.js");
          const photo = { data: Uint8ClampedArray.from(data), width: 140, height: 90 };
          return boxes.map(box => [...cropImage(photo, cropAround(box, 256, 1.2), 114)]);
        }""",
        [data, boxes],
    )
    for box, found in zip(boxes, crops, strict=True):
        wanted = crop_image(photo, Crop.from_box(box, 256), fill=114)
        np.testing.assert_array_equal(np.array(found).reshape(wanted.shape), wanted, str(box))


def test_photos_are_read_and_the_camera_runs(site, serve, open_page, tmp_path):
    """EXIF, transparency and JPEG as ``load_image`` has them; then frames, until it is off."""
    runner = Image.open(DEMO / "runner.png").convert("RGB")
    alpha = np.random.default_rng(0).integers(0, 256, (256, 256, 1), dtype=np.uint8)
    Image.fromarray(np.concatenate([np.asarray(runner), alpha], 2)).save(tmp_path / "alpha.png")
    turned = Image.Exif()
    turned[0x112] = 6
    runner.crop((0, 0, 200, 120)).save(tmp_path / "turned.jpg", quality=85, exif=turned)
    address, _ = serve(site)
    page = start(open_page, address)
    for run, name in enumerate(("alpha.png", "turned.jpg"), start=1):
        page.set_input_files("#file", str(tmp_path / name))
        answer(page, run)
        width, height, data = page.evaluate(
            "[demo.photo.width, demo.photo.height, [...demo.photo.data]]"
        )
        pixels = np.array(data).reshape(height, width, 4)[..., :3]
        wanted = load_image(tmp_path / name)
        assert pixels.shape == wanted.shape
        assert np.abs(pixels - wanted).max() <= 2, name  # decoders of JPEG may differ
    page.click("#camera")
    end = time.monotonic() + 120
    while int(page.get_attribute("body", "data-done")) < 4 and time.monotonic() < end:
        page.wait_for_timeout(100)
    assert int(page.get_attribute("body", "data-done")) >= 4, "two frames were to be answered"
    assert page.get_attribute("#camera", "aria-pressed") == "true"
    assert page.evaluate("demo.photo.width") == 640
    page.click("#camera")
    assert page.get_attribute("#camera", "aria-pressed") == "false"
    page.wait_for_timeout(2000)
    before = page.get_attribute("body", "data-done")
    page.wait_for_timeout(2000)
    assert page.get_attribute("body", "data-done") == before, "the camera is off, frames go on"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_small_screens_keys_and_what_goes_wrong(site, serve, open_page, browser, scheme, tmp_path):
    address, _ = serve(site)
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page = start(open_page, address, context=context)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand so on")
    page.set_input_files("#file", str(tmp_path / "broken.png"))
    page.wait_for_selector("#said.bad")
    assert "broken.png is not a picture" in page.inner_text("#said")
    Image.new("RGB", (320, 200), (90, 140, 90)).save(tmp_path / "meadow.png")
    page.set_input_files("#file", str(tmp_path / "meadow.png"))
    assert answer(page) == []
    page.click("#whole")  # shown where nobody is found
    (one,) = answer(page, 2)
    assert one["box"] == [0, 0, 320, 200]
    assert one["score"] is None
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

    def picture():
        return np.asarray(Image.open(io.BytesIO(page.locator("#view").screenshot())).convert("RGB"))

    page.wait_for_timeout(200)
    before = picture()
    page.focus("#view")
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(200)
    turned = picture()
    assert np.abs(before.astype(int) - turned).max() > 40, "the arrow turned nothing"
    page.click("[data-view=camera]")
    page.wait_for_timeout(200)
    assert np.abs(before.astype(int) - picture()).mean() < 1
    page.click("[data-toggle=photo]")
    page.wait_for_timeout(200)
    corner = picture()[200, 4].astype(int)
    assert (corner.mean() < 60) == (scheme == "dark")
    context.close()


def test_without_webgl_the_page_says_so(site, serve, open_page):
    address, _ = serve(site)
    page = open_page(
        address, script="HTMLCanvasElement.prototype.getContext = function () { return null; }"
    )
    page.wait_for_selector("#said.bad")
    assert "no WebGL 2" in page.inner_text("#said")
    assert page.is_disabled("#file")


def test_exports_that_the_page_cannot_show_are_refused(tiny_export, tmp_path):
    """Before anything of the runtime is read, or of the folder is touched."""
    with pytest.raises(FileNotFoundError, match="no detector; export with --detector"):
        build_web.build(tmp_path / "out", tiny_export, tmp_path)
    other = shutil.copytree(tiny_export, tmp_path / "other")
    card = json.loads((other / "export.json").read_text())
    (other / "export.json").write_text(json.dumps(card | {"body": "smpl-neutral"}))
    with pytest.raises(ValueError, match="whose licence may forbid it"):
        build_web.build(tmp_path / "out", other, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_shipped_networks_answer_as_in_python(browser, runtime, serve, open_page, tmp_path):
    export = build_web.export_shipped(tmp_path / "export")
    build_web.build(tmp_path / "site", export, runtime)
    address, _ = serve(tmp_path / "site")
    page = start(open_page, address)
    for run, name in enumerate(("cameraman.png", "runner.png", "sitter.png"), start=1):
        page.set_input_files("#file", str(DEMO / name))
        print(name, check(answer(page, run), DEMO / name, export))
