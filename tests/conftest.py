"""Fixtures that every test folder shares."""

from __future__ import annotations

import functools
import http.server
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

REPO = Path(__file__).resolve().parent.parent

# Tests are many small tensors: a second thread only waits, for long where other jobs run too. Tests
# of threading set their own number.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Seed every generator and put the global states back afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])


@pytest.fixture(
    params=[pytest.param("cpu", id="cpu"), pytest.param("cuda", id="cuda", marks=pytest.mark.cuda)]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and a GPU where there is one; EFT_FAST_REQUIRE_CUDA=1 makes a missing one fail."""
    if request.param == "cuda" and not torch.cuda.is_available():
        if os.environ.get("EFT_FAST_REQUIRE_CUDA") == "1":
            pytest.fail("EFT_FAST_REQUIRE_CUDA=1, but torch sees no GPU")
        pytest.skip("no GPU")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of specifications, fixtures and photos beside the checkout; not part of it."""
    folder = Path(os.environ.get("EFT_FAST_SHARED", REPO.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("the shared data folder is absent (set EFT_FAST_SHARED)")
    return folder


@pytest.fixture
def sphere() -> tuple[np.ndarray, np.ndarray]:
    """A closed unit sphere, faces counter-clockwise from outside."""
    rings, around = 12, 24
    polar = np.linspace(0, np.pi, rings + 1)[1:-1]
    angle = np.arange(around) * (2 * np.pi / around)
    p, a = (grid.ravel() for grid in np.meshgrid(polar, angle, indexing="ij"))
    middle = np.stack([np.sin(p) * np.cos(a), np.sin(p) * np.sin(a), np.cos(p)], 1)
    vertices = np.concatenate([middle, [[0, 0, 1], [0, 0, -1]]])
    index = np.arange(len(middle)).reshape(rings - 1, around)
    upper, lower = index[:-1], index[1:]
    right_upper, right_lower = np.roll(upper, -1, 1), np.roll(lower, -1, 1)
    first, last = index[0], index[-1]
    top, bottom = np.full(around, len(middle)), np.full(around, len(middle) + 1)
    triples = (
        (upper, lower, right_lower),
        (upper, right_lower, right_upper),
        (top, first, np.roll(first, -1)),
        (bottom, np.roll(last, -1), last),
    )
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in triples])
    return vertices, faces


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium: EFT_FAST_CHROMIUM, the system's, or playwright's own."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = map(shutil.which, names)
    place = os.environ.get("EFT_FAST_CHROMIUM") or next(filter(None, found), None)
    with sync_api.sync_playwright() as playwright:
        if place is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no Chromium (set EFT_FAST_CHROMIUM)")
        # A camera that shows a test picture, without a question.
        camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
        # WebGPU where there is no GPU as well, computed on the CPU.
        webgpu = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
        arguments = ["--no-sandbox", *camera, *webgpu]
        made = playwright.chromium.launch(executable_path=place, args=arguments)
        yield made
        made.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a file or address in a fresh profile; what goes wrong on the page fails the test."""
    problems: list[str] = []
    contexts: list[Any] = []

    def open_page(
        path: Path | str,
        width: int = 1400,
        height: int = 900,
        script: str | None = None,
        context: Any = None,
    ) -> Any:
        if context is None:
            context = browser.new_context(viewport={"width": width, "height": height})
            contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        # Of a screenshot of WebGL the driver says that it waited.
        page.on(
            "console",
            lambda text: "due to ReadPixels" in text.text or problems.append(text.text),
        )
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        # Without the picker, a file is saved as a download, which the test can take.
        page.add_init_script(script or "delete window.showSaveFilePicker")
        page.goto(path if isinstance(path, str) else path.resolve().as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def serve() -> Iterator[Callable[[Path], tuple[str, list[Any]]]]:
    """Address of a folder, by Python's own server of files, and what was asked of it."""
    servers = []

    def serve(folder: Path) -> tuple[str, list[Any]]:
        asked: list[Any] = []

        class Handler(_Quiet):
            def parse_request(self) -> bool:
                known = super().parse_request()
                asked.append((self.command, self.path, self.headers.get("Content-Length")))
                return known

        handler = functools.partial(Handler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/", asked

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with all outputs of a network a thousandth of the size of the shipped one."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra onnx is not installed")
    from eft_fast.body import load_body
    from eft_fast.deploy import ExportConfig, export_regressor
    from eft_fast.models.open_regressor import OpenRegressor
    from tests.helpers import make_covariance

    out, regressor = tmp_path_factory.mktemp("export") / "tiny", OpenRegressor.make_tiny()
    covariance = out.with_name("covariance.npz")
    make_covariance(regressor).save(covariance)
    config = ExportConfig(outputs="vertices", max_batch=16)
    export_regressor(regressor, out, body=load_body(), config=config, covariance=covariance)
    return out


@pytest.fixture(scope="session")
def detector_export(tiny_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny export with the package's detector beside the model; takes most of a minute."""
    from eft_fast.deploy.detector_export import add_detector
    from eft_fast.deploy.folder import hash_files, write_json
    from eft_fast.serving.card import HASHES_NAME

    out = shutil.copytree(tiny_export, tmp_path_factory.mktemp("detector") / "export")
    add_detector(out, opset=20, eft_fast_version="test")
    write_json(out / HASHES_NAME, hash_files(out))
    return out
