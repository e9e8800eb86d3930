"""The BlazePose module against the published graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eft_fast.models.blazepose import NUM_LANDMARKS, BlazePose
from tests.assets import make_blazepose_golden as golden_script

ASSETS = Path(__file__).resolve().parents[1] / "assets"


def seeded_network(variant: str) -> BlazePose:
    shapes = {k: tuple(v.shape) for k, v in BlazePose(variant).state_dict().items()}
    return BlazePose.from_arrays(golden_script.seeded_state(shapes), variant).eval()


@pytest.mark.parametrize("variant", ["full", "lite"])
def test_matches_graph_under_seeded_weights(variant):
    """Pads, strides, shortcuts and activations agree with ONNX Runtime on the published graph."""
    golden = np.load(ASSETS / "blazepose_golden.npz")
    with torch.no_grad():
        output = seeded_network(variant)(torch.from_numpy(golden_script.seeded_input()))
    for name in ("landmarks", "world", "score", "features"):
        expected = torch.from_numpy(golden[f"{variant}_{name}"])
        got = getattr(output, name).reshape(-1)
        # Values reach 6 and 70 layers separate two float32 summation orders; measured 4e-5.
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-4)
    with torch.no_grad():
        rgb = torch.from_numpy(golden_script.seeded_input())
        same, heatmaps = seeded_network(variant).with_heatmaps(rgb)
    assert torch.equal(same.landmarks, output.landmarks)
    assert heatmaps.shape == (1, NUM_LANDMARKS, 64, 64)
    expected = torch.from_numpy(golden[f"{variant}_heatmaps"])
    torch.testing.assert_close(heatmaps[0, ::13, ::4, ::4], expected, rtol=1e-4, atol=2e-4)
    # A dead or saturated network would agree with anything.
    features = golden[f"{variant}_features"]
    assert 0.2 < np.mean((features > 0) & (features < 6)) < 0.9


@pytest.mark.parametrize(("variant", "tolerance_px"), [("full", 1e-3), ("lite", 2e-3)])
def test_converted_weights_match_onnxruntime_on_a_photo(shared_dir, variant, tolerance_px):
    """Converted weights, real crop; 1e-3 px of a 256 px crop is float32 rounding."""
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    from tools.convert_blazepose import convert

    path = shared_dir / "data" / "blazepose" / f"pose_landmark_{variant}.onnx"
    photo = shared_dir / "data" / "coco_people_open" / "images" / "000000000785.jpg"
    crop = Image.open(photo).convert("RGB").resize((256, 256), box=(190, 20, 560, 390))
    rgb = np.asarray(crop, dtype=np.float32)[None] / 255

    session = onnxruntime.InferenceSession(str(path))
    names = [value.name for value in session.get_outputs()]
    expected = dict(zip(names, session.run(None, {"input_1": rgb}), strict=True))
    network = BlazePose.from_arrays(convert(path, variant), variant).eval()
    with torch.no_grad():
        output, heatmaps = network.with_heatmaps(torch.from_numpy(rgb).permute(0, 3, 1, 2))

    landmarks = output.landmarks.reshape(-1).numpy()
    assert output.score.item() > 0.9
    np.testing.assert_allclose(landmarks, expected["Identity"][0], rtol=0, atol=tolerance_px)
    world = output.world.reshape(-1).numpy()
    np.testing.assert_allclose(world, expected["Identity_4"][0], rtol=0, atol=2e-5)
    heatmaps = heatmaps.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(heatmaps, expected["Identity_3"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(output.score.numpy(), expected["Identity_1"][0], atol=1e-5)


def test_every_weight_receives_gradient():
    network = seeded_network("full").train()
    output, heatmaps = network.with_heatmaps(torch.from_numpy(golden_script.seeded_input()))
    loss = (
        heatmaps.square().sum()
        + output.landmarks.square().sum()
        + output.world.square().sum()
        + output.score.sum()
    )
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_is_deterministic_and_has_no_mode():
    """No batch norm, no dropout: training mode and repeats give the same bits."""
    network = seeded_network("lite")
    kinds = {type(module).__name__ for module in network.modules()}
    assert not {name for name in kinds if "Norm" in name or "Dropout" in name}
    rgb = torch.rand(2, 3, 256, 256)
    with torch.no_grad():
        first, second = network.eval()(rgb), network.train()(rgb)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_person_does_not_depend_on_neighbours():
    network = seeded_network("lite")
    rgb = torch.rand(3, 3, 256, 256)
    with torch.no_grad():
        together, alone = network(rgb), network(rgb[1:2])
    torch.testing.assert_close(together.landmarks[1:2], alone.landmarks, rtol=1e-4, atol=1e-4)


def test_shapes_and_empty_batch():
    network = BlazePose("tiny")
    for batch in (0, 2):
        output = network(torch.rand(batch, 3, 256, 256))
        assert output.landmarks.shape == (batch, NUM_LANDMARKS, 5)
        assert output.world.shape == (batch, NUM_LANDMARKS, 3)
        assert output.score.shape == (batch,)
        assert output.features.shape == (batch, network.feature_size)
    assert BlazePose("full").feature_size == 1152


def test_parameter_counts():
    assert sum(p.numel() for p in BlazePose("full").parameters()) == 3_167_640
    assert sum(p.numel() for p in BlazePose("lite").parameters()) == 1_361_672


def test_rejects_bad_input():
    network = BlazePose("tiny")
    with pytest.raises(ValueError, match=r"rgb must be \[B, 3, 256, 256\], got \[1, 3, 224, 224\]"):
        network(torch.rand(1, 3, 224, 224))
    with pytest.raises(ValueError, match="variant must be one of"):
        BlazePose("heavy")


def test_rejects_foreign_weights():
    arrays = {name: value.numpy() for name, value in BlazePose("tiny").state_dict().items()}
    with pytest.raises(ValueError, match="must be"):
        BlazePose.from_arrays(arrays | {"stem.bias": np.zeros(7)}, "tiny")
    arrays["extra"] = arrays.pop("stem.weight")
    with pytest.raises(ValueError, match=r"missing stem\.weight, unexpected extra"):
        BlazePose.from_arrays(arrays, "tiny")
