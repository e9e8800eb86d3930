"""YOLOX-nano: parity with the published graph, the shipped weights, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eft_fast.models.yolox import PUBLISHED_PATH, YoloxNano, load_published_yolox
from tests.assets.make_yolox_golden import STEP, seeded_input, seeded_state

GOLDEN = Path(__file__).parent.parent / "assets" / "yolox_golden.npz"


def seeded_network() -> YoloxNano:
    state = seeded_state({k: tuple(v.shape) for k, v in YoloxNano().state_dict().items()})
    return YoloxNano.from_arrays(state).eval()


@torch.no_grad()
def test_matches_the_published_graph():
    """Same weights, same picture, in ONNX Runtime: the whole architecture."""
    with np.load(GOLDEN) as golden:
        expected = torch.from_numpy(golden["answer"])
    answer = seeded_network()(torch.from_numpy(seeded_input()))[0, ::STEP]
    torch.testing.assert_close(answer, expected, rtol=1e-3, atol=1e-3)
    assert (expected[:, :4].std(0) > 0.05).all()
    assert (expected[:, 4:].std(0) > 0.01).all()


@torch.no_grad()
def test_every_weight_counts():
    """A network without one of its weights answers differently."""
    network, picture = seeded_network(), torch.from_numpy(seeded_input())[..., :128, :128]
    before = network(picture)
    for name, weight in network.named_parameters():
        kept = weight.clone()
        weight.zero_()
        assert not torch.allclose(network(picture), before, atol=1e-6), name
        weight.copy_(kept)
    torch.testing.assert_close(network(picture), before, rtol=0, atol=0)


@torch.no_grad()
def test_pictures_do_not_depend_on_their_neighbours():
    network = seeded_network()
    pictures = torch.rand(3, 3, 96, 96) * 255
    together = network(pictures)
    for one, expected in zip(pictures, together, strict=True):
        torch.testing.assert_close(network(one[None])[0], expected, rtol=1e-4, atol=1e-4)


def test_published_weights_equal_those_of_the_onnx_file(shared_dir):
    pytest.importorskip("onnx")
    from tools.convert_yolox import convert, is_tender

    arrays = convert(shared_dir / "data" / "yolox" / "yolox_nano_416.onnx")
    shipped = load_published_yolox().state_dict()
    assert set(arrays) == set(shipped)
    for name, array in arrays.items():
        expected = array if is_tender(name, array) else array.astype(np.float16)
        np.testing.assert_array_equal(shipped[name].numpy(), expected)


@torch.no_grad()
def test_answers_of_the_onnx_file(shared_dir):
    """The graph itself, with its own weights, on a photo: 1e-3; and what rounded weights cost."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from eft_fast.imaging import crop_image, load_image
    from eft_fast.models.detector import run_yolox
    from eft_fast.person_boxes import decode, letterbox
    from tools.convert_yolox import convert

    path = shared_dir / "data" / "yolox" / "yolox_nano_416.onnx"
    photos = sorted((shared_dir / "data" / "coco_photos_open" / "train").glob("*.jpg"))
    photo = load_image(photos[0])
    pixels = crop_image(photo, letterbox(photo, 416), fill=114)[None]
    picture = np.ascontiguousarray(pixels[..., ::-1].transpose(0, 3, 1, 2), np.float32)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"images": picture})[0][0, :, :6]
    network = YoloxNano.from_arrays(convert(path)).eval()
    answer = network(torch.from_numpy(picture))[0].numpy()
    np.testing.assert_allclose(answer, expected, atol=1e-3)
    # Measured on 5 photos: 0.6 pixels and 0.005 of a probability.
    rounded = decode(run_yolox(load_published_yolox(), pixels)[0], (416, 416))
    boxes = decode(expected, (416, 416))
    sure = boxes[:, 4] > 0.2
    assert sure.any()
    np.testing.assert_allclose(rounded[sure, :4], boxes[sure, :4], atol=1)
    np.testing.assert_allclose(rounded[:, 4], boxes[:, 4], atol=0.01)


def test_every_weight_can_be_tuned():
    network = YoloxNano()
    network(torch.rand(2, 3, 64, 64) * 255).square().sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_rejects_bad_input():
    network = YoloxNano()
    with pytest.raises(ValueError, match=r"bgr must be \[B, 3, H, W\], got \[1, 4, 64, 32\]"):
        network(torch.zeros(1, 4, 64, 32))
    with pytest.raises(ValueError, match="both sides must be multiples of 32, got 64 x 100"):
        network(torch.zeros(1, 3, 64, 100))
    assert network(torch.zeros(1, 3, 64, 96)).shape == (1, (4 * 4 + 2 * 2 + 1) * 6, 6)
    with np.load(PUBLISHED_PATH) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["more.weight"] = arrays.pop("stem.weight")
    with pytest.raises(ValueError, match=r"YoloxNano: weights .* missing stem.weight"):
        YoloxNano.from_arrays(arrays)
