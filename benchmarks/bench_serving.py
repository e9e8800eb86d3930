"""pytest benchmarks/bench_serving.py --benchmark-only: the exported regressor in each runtime.

The open regressor, and a ResNet-50 in the form of SPIN and EFT with random weights: speed does not
depend on their values. ``eft-fast bench onnx`` measures the same in interleaved rounds.
"""

from __future__ import annotations

import numpy as np
import pytest

from eft_fast.deploy import export_regressor
from eft_fast.deploy.samples import extreme_crops, photo_crops
from eft_fast.deploy.speed import ENGINES, open_engines
from eft_fast.models import load_regressor
from eft_fast.models.hmr import Hmr
from eft_fast.serving import Predictor, usable_cpus

BATCHES = (1, 8)
#: Compiling takes a minute and says nothing of serving; ``eft-fast bench onnx`` has it.
RUNTIMES = tuple(name for name in ENGINES if name != "torch_compile")


@pytest.fixture(scope="module", params=["open", "hmr"])
def engines(request, tmp_path_factory):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    regressor = load_regressor() if request.param == "open" else Hmr().eval()
    folder = tmp_path_factory.mktemp(request.param)
    export_regressor(regressor, folder / "fp32")
    (folder / "int8").mkdir()
    size = regressor.input_size
    crops = np.stack([*photo_crops(size), *extreme_crops(size)])
    opened = open_engines(
        regressor,
        folder / "fp32",
        crops,
        folder / "int8",
        names=RUNTIMES,
        threads=usable_cpus(),
    )
    return request.param, opened, crops, folder / "fp32"


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("batch", BATCHES)
def test_regressor(benchmark, engines, batch: int, runtime: str) -> None:
    network, opened, crops, _ = engines
    if runtime in opened.left_out:
        pytest.skip(opened.left_out[runtime])
    benchmark.group = f"{network}, {batch} crops, {usable_cpus()} threads"
    benchmark(opened.run[runtime], crops[np.arange(batch) % len(crops)])


@pytest.mark.parametrize("batch", BATCHES)
def test_photo_to_body(benchmark, engines, batch: int) -> None:
    """Decode, crop, run, project: what a caller of ``Predictor`` waits for."""
    from pathlib import Path

    import eft_fast

    network, _, _, folder = engines
    photo = Path(eft_fast.__file__).parent / "assets" / "demo" / "cameraman.png"
    content, predictor = photo.read_bytes(), Predictor(folder, provider="cpu")
    boxes = [[80.0, 60.0, 300.0, 400.0]] * batch
    benchmark.group = f"{network}, {batch} people, photo to body"
    benchmark(predictor, [content] * batch, boxes)
