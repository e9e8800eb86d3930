"""onnxruntime-web for tests: where it is, and how a file that fits is run there."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eft_fast.serving.fit_model import FitModel

#: Folder with the package onnxruntime-web of npm: its wasm is tried where it is given.
NODE_MODULES = os.environ.get("EFT_FAST_NODE_MODULES")

needs_web = pytest.mark.skipif(
    NODE_MODULES is None or shutil.which("node") is None,
    reason="EFT_FAST_NODE_MODULES does not name a folder with onnxruntime-web, or node is missing",
)


def check_in_web(folder: Path, samples: Mapping[str, np.ndarray], people: slice) -> None:
    """Fits of stored people in WebAssembly, in node, are those in ONNX Runtime.

    Args:
        folder: Of an export with a file that fits.
        samples: Its stored people.
        people: Which of them.
    """
    feeds, want = _ask(folder, samples, people)
    given = folder.parent / "feeds.json"
    given.write_text(feeds)
    script = Path(__file__).with_name("run_web.mjs")
    command = ["node", str(script), str(NODE_MODULES), str(folder / "fit.onnx"), str(given), "1"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    _compare(json.loads(done.stdout.splitlines()[-1])["outputs"], want)


def check_in_browser(
    browser: Any,
    serve: Callable[[Path], tuple[str, list[Any]]],
    provider: str,
    folder: Path,
    samples: Mapping[str, np.ndarray],
    people: slice,
) -> None:
    """The same in a browser.

    Args:
        browser: The fixture.
        serve: The fixture.
        provider: ``"wasm"`` or ``"webgpu"``.
        folder: Of an export with a file that fits.
        samples: Its stored people.
        people: Which of them.
    """
    feeds, want = _ask(folder, samples, people)
    root = folder.parent / f"site_{provider}"
    root.mkdir()
    (root / "ort").symlink_to(Path(str(NODE_MODULES)).resolve() / "onnxruntime-web" / "dist")
    shutil.copy(folder / "fit.onnx", root)
    for script in ("run_browser.mjs", "feeds.mjs"):
        shutil.copy(Path(__file__).with_name(script), root)
    (root / "feeds.json").write_text(feeds)
    (root / "index.html").write_text("<!doctype html><title>fit</title>")
    address, _ = serve(root)
    page = browser.new_page()
    try:
        page.goto(address + "index.html")
        if provider == "webgpu" and not page.evaluate(
            "navigator.gpu?.requestAdapter().then(adapter => adapter !== null) ?? false"
        ):
            pytest.skip("this Chromium has no WebGPU")
        outputs = page.evaluate(
            "provider => import('/run_browser.mjs').then(it => it.run(provider))", provider
        )
    finally:
        page.close()
    _compare(outputs, want)


def _ask(
    folder: Path, samples: Mapping[str, np.ndarray], people: slice
) -> tuple[str, dict[str, np.ndarray]]:
    """The inputs of some people as JSON, and their fits in ONNX Runtime."""
    names = {"image": "images", "keypoints": "keypoints", "sigma": "sigma"}
    inputs = {name: samples[stored][people] for name, stored in names.items()}
    want = FitModel(folder, threads=1).run(*inputs.values())
    inputs["pinhole"] = np.zeros((len(inputs["image"]), 4), np.float32)
    feeds = {
        name: {
            "type": str(array.dtype),
            "dims": list(array.shape),
            "data": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
        }
        for name, array in inputs.items()
    }
    return json.dumps(feeds), want


def _compare(outputs: Mapping[str, Any], want: Mapping[str, np.ndarray]) -> None:
    for name, value in want.items():
        data = np.frombuffer(base64.b64decode(outputs[name]["data"]), np.float32)
        np.testing.assert_allclose(data.reshape(value.shape), value, rtol=2e-3, atol=2e-3)
