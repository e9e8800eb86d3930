"""onnxruntime-web for tests: where it is, and how a file that fits is run there."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

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
    """Fits of stored people in WebAssembly are those in ONNX Runtime.

    Args:
        folder: Of an export with a file that fits.
        samples: Its stored people.
        people: Which of them.
    """
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
    given = folder.parent / "feeds.json"
    given.write_text(json.dumps(feeds))
    script = Path(__file__).with_name("run_web.mjs")
    command = ["node", str(script), str(NODE_MODULES), str(folder / "fit.onnx"), str(given), "1"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    outputs = json.loads(done.stdout.splitlines()[-1])["outputs"]
    for name, value in want.items():
        data = np.frombuffer(base64.b64decode(outputs[name]["data"]), np.float32)
        np.testing.assert_allclose(data.reshape(value.shape), value, rtol=2e-3, atol=2e-3)
