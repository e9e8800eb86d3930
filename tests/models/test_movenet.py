"""The MoveNet module against the published graphs, its read-out, and keypoints in a photo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eft_fast.imaging import Crop, crop_image, load_image
from eft_fast.models import movenet, movenet_keypoints
from eft_fast.models.identity import weights_hash
from eft_fast.models.movenet import MoveNet, MoveNetMaps, read_out, soft_read_out
from eft_fast.person_keypoints import keypoints_in_boxes
from tests.assets import make_movenet_golden as golden_script
from tests.assets.make_blazepose_golden import seeded_state

ASSETS = Path(__file__).resolve().parents[1] / "assets"


def seeded_network(variant: str) -> MoveNet:
    shapes = {k: tuple(v.shape) for k, v in MoveNet(variant).state_dict().items()}
    return MoveNet.from_arrays(seeded_state(shapes), variant).eval()


def seeded_rgb(size: int) -> torch.Tensor:
    return torch.from_numpy(golden_script.seeded_input(size)).permute(0, 3, 1, 2).float() / 255


def empty_maps(cells: int = 16, batch: int = 1) -> MoveNetMaps:
    """Maps in which nothing is anywhere."""
    center, heatmaps = (torch.full((batch, c, cells, cells), -12.0) for c in (1, 17))
    regression, offsets = (torch.zeros(batch, 34, cells, cells) for _ in range(2))
    return MoveNetMaps(center, regression, heatmaps, offsets, (), ())


@pytest.mark.parametrize("variant", ["thunder", "lightning"])
def test_matches_graph_under_seeded_weights(variant):
    """Pads, strides, shortcuts, pyramid and read-out agree with ONNX Runtime on the graph."""
    golden = np.load(ASSETS / "movenet_golden.npz")
    network = seeded_network(variant)
    with torch.no_grad():
        maps = network.maps(seeded_rgb(network.input_size))
        keypoints = read_out(maps)[0]
    for head in golden_script.HEADS:
        expected = torch.from_numpy(golden[f"{variant}_{head}"])
        got = getattr(maps, head)[0, ::4, ::5, ::5]
        scale = expected.abs().max()
        assert expected.std() > 0.05 * scale  # a dead network would agree with anything
        torch.testing.assert_close(got / scale, expected / scale, rtol=0, atol=2e-4)
    expected = torch.from_numpy(golden[f"{variant}_keypoints"])
    size = network.input_size
    torch.testing.assert_close(keypoints[:, :2].flip(1) / size, expected[:, :2], rtol=0, atol=1e-3)
    torch.testing.assert_close(keypoints[:, 2], expected[:, 2], rtol=0, atol=1e-3)


@pytest.mark.parametrize("variant", ["thunder", "lightning"])
def test_published_weights_match_onnxruntime_on_photos(shared_dir, variant):
    """Converted weights, real crops: 1e-5 of the crop is float32 rounding."""
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    from tools.convert_movenet import convert

    path = shared_dir / "data" / "movenet" / f"movenet-{variant}.onnx"
    folder = shared_dir / "data" / "coco_people_open"
    people = json.loads((folder / "people.json").read_text())["annotations"]
    people = [person for person in people if person["num_keypoints"] >= 10][:4]
    session = onnxruntime.InferenceSession(str(path))
    (given,) = session.get_inputs()
    network = MoveNet.from_arrays(convert(path, variant), variant).eval()
    for person in people:
        photo = load_image(folder / "images" / f"{person['image_id']:012d}.jpg")
        crop = crop_image(photo, Crop.from_box(person["bbox"], network.input_size, margin=1.1))
        expected = session.run(None, {given.name: crop[None].astype(np.int32)})[0][0, 0]
        pixels = torch.from_numpy(crop)[None]
        with torch.no_grad():
            got = network(movenet_keypoints.to_rgb(pixels, network))[0].numpy()
        assert expected[:, 2].max() > 0.4
        np.testing.assert_allclose(
            got[:, :2][:, ::-1] / network.input_size, expected[:, :2], atol=1e-5
        )
        np.testing.assert_allclose(got[:, 2], expected[:, 2], atol=1e-4)


def test_shipped_weights_are_those_of_the_card():
    network = movenet_keypoints.load_movenet()
    assert network.variant == "thunder"
    assert weights_hash(network) == "47962b5199b1d8e4"
    assert sum(p.numel() for p in network.parameters()) == 6_226_046
    assert sum(p.numel() for p in MoveNet("lightning").parameters()) == 2_317_974


def test_shipped_weights_are_those_of_the_onnx_file(shared_dir):
    pytest.importorskip("onnx")
    from tools.convert_movenet import convert

    path = shared_dir / "data" / "movenet" / "movenet-thunder.onnx"
    shipped = movenet_keypoints.load_movenet().state_dict()
    for name, array in convert(path, "thunder").items():
        np.testing.assert_array_equal(shipped[name].numpy(), array, err_msg=name)


def test_read_out_of_constructed_heatmaps():
    """Every rule of the read-out decides something here."""
    maps = empty_maps()
    maps.center[0, 0, 8, 9] = 2.0  # the person in the middle wins over the likelier one
    maps.center[0, 0, 1, 1] = 3.0
    maps.regression[0, 0::2, 8, 9] = -4.0  # all keypoints are about cell (4, 12)
    maps.regression[0, 1::2, 8, 9] = 3.0
    maps.heatmaps[0, :, 5, 12] = 1.0  # one cell away: .73 / 2.8
    maps.heatmaps[0, 0, 14, 2] = 6.0  # 14 cells away, however sure: 1 / 16
    maps.heatmaps[0, 1, 4, 12] = 0.0  # nearer: .5 / 1.8 = .277 wins over .261
    maps.offsets[0, 0::2, 5, 12] = 0.25
    maps.offsets[0, 1::2, 5, 12] = -0.5
    found = read_out(maps)
    assert found.shape == (1, 17, 3)
    one, zero = float(torch.sigmoid(torch.tensor(1.0))), 0.5
    scale = 4 * 16 * float(np.float16(1 / 16))
    for k in (0, 2, 16):
        assert found[0, k].tolist() == pytest.approx([11.5 * scale, 5.25 * scale, one], abs=1e-5)
    assert found[0, 1].tolist() == pytest.approx([12 * scale, 4 * scale, zero], abs=1e-5)


def test_first_of_equal_cells_is_taken():
    """As TensorFlow's ArgMax does."""
    maps = empty_maps()
    maps.center[0, 0, 8, 7] = maps.center[0, 0, 8, 9] = 2.0
    maps.heatmaps[0, :, 8, 6] = maps.heatmaps[0, :, 8, 8] = 2.0
    assert read_out(maps)[0, 3, :2].tolist() == [6 * 4.0, 8 * 4.0]


def test_center_weight_is_that_of_the_graph():
    """Values of the published constant, float16."""
    weight = movenet._center_weight(torch.zeros(1, 1, 64, 64))
    assert weight[32, 32] == np.float16(1 / 1.8)
    # The one rounding that the plain formula misses, (19, 30) cells from the middle.
    assert float(weight[2, 13]) == pytest.approx(0.026809692, abs=1e-9)
    assert torch.equal(weight[1:, 1:], weight[1:, 1:].flip(0))


def test_sharp_soft_read_out_is_the_published_one():
    torch.manual_seed(0)
    maps = empty_maps(batch=3)
    maps = MoveNetMaps(
        *(torch.randn(3, c, 16, 16, dtype=torch.float64) for c in (1, 34, 17, 34)), (), ()
    )
    hard, soft = read_out(maps), soft_read_out(maps, 1e5)
    torch.testing.assert_close(soft, hard, rtol=0, atol=1e-3)


def test_soft_read_out_has_the_gradient_of_its_differences():
    torch.manual_seed(1)
    parts = [torch.randn(1, c, 4, 4, dtype=torch.float64) for c in (1, 34, 17, 34)]
    for part in parts:
        part.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *p: soft_read_out(MoveNetMaps(*p, (), ())), parts, fast_mode=True
    )


def test_every_weight_receives_gradient():
    network = seeded_network("thunder").train()
    found = soft_read_out(network.maps(seeded_rgb(256)))
    found.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_native_depthwise_way_equals_torch(monkeypatch):
    """Outputs, and gradients up to the few clamps that float32 rounding takes the other way."""
    torch.manual_seed(0)
    rgb = (seeded_rgb(192) + 0.2 * torch.rand(1, 3, 192, 192)) / 1.2
    outcomes = []
    for native in (True, False):
        if not native:
            monkeypatch.setattr("eft_fast.models.mobile.runs_natively", lambda *_: False)
            monkeypatch.setattr("eft_fast.ops.mobile.runs_natively", lambda *_: False)
        network = seeded_network("lightning")
        maps = network.maps(rgb)
        sum(head.square().mean() for head in maps[:4]).backward()
        outcomes.append((maps[:4], [p.grad for p in network.parameters()]))
    (ours, our_grads), (plain, plain_grads) = outcomes
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * float(b.detach().abs().max()))
    for a, b in zip(our_grads, plain_grads, strict=True):
        assert (a - b).norm() < 0.02 * b.norm()  # measured 0.006


@pytest.mark.parametrize("stage", range(6))
def test_runs_from_any_stage(stage):
    network = seeded_network("tiny")
    rgb = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        whole = network.maps(rgb)
        parts = network.run_to_maps(stage, network.run_to_stage(stage, rgb))
    for a, b in zip(flatten(whole), flatten(parts), strict=True):
        assert torch.equal(a, b)


def flatten(maps: MoveNetMaps) -> list[torch.Tensor]:
    return [*maps[:4], *maps.pyramid, *maps.encoder]


def test_shapes_of_maps_and_empty_batch():
    network = MoveNet("thunder")
    with torch.no_grad():
        maps = network.maps(torch.rand(1, 3, 256, 256))
        assert [tuple(m.shape[1:]) for m in maps.pyramid] == [
            (32, 16, 16), (24, 32, 32), (24, 64, 64),
        ]  # fmt: skip
        assert [tuple(m.shape[1:]) for m in maps.encoder] == [
            (40, 64, 64), (56, 32, 32), (112, 16, 16), (1280, 8, 8),
        ]  # fmt: skip
        for batch in (0, 2):
            assert MoveNet("tiny")(torch.rand(batch, 3, 64, 64)).shape == (batch, 17, 3)


def test_is_deterministic_and_has_no_mode():
    """No batch norm, no dropout: training mode and repeats give the same bits."""
    network = seeded_network("tiny")
    kinds = {type(module).__name__ for module in network.modules()}
    assert not {name for name in kinds if "Norm" in name or "Dropout" in name}
    assert not list(network.buffers())
    rgb = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.eval()(rgb), network.train()(rgb))


def test_rejects_bad_input():
    for shape in ((1, 3, 64, 100), (1, 3, 100, 100), (1, 3, 64, 96), (1, 1, 64, 64), (3, 64, 64)):
        with pytest.raises(ValueError, match=r"must be \[B, 3, S, S\], S a multiple of 32, got"):
            MoveNet("tiny")(torch.rand(*shape))
    with pytest.raises(ValueError, match="variant must be one of"):
        MoveNet("storm")
    arrays = {name: value.numpy() for name, value in MoveNet("tiny").state_dict().items()}
    arrays["extra"] = arrays.pop("stem.weight")
    with pytest.raises(ValueError, match=r"MoveNet: .* missing stem\.weight, unexpected extra"):
        MoveNet.from_arrays(arrays, "tiny")


def test_keypoints_lie_on_a_person(shared_dir):
    """People of open photos: most labels are found, from one box or several alike."""
    folder = shared_dir / "data" / "coco_people_open"
    people = json.loads((folder / "people.json").read_text())["annotations"]
    image_id = people[0]["image_id"]
    people = [p for p in people if p["image_id"] == image_id and p["num_keypoints"] >= 10]
    photo = load_image(folder / "images" / f"{image_id:012d}.jpg")
    network = movenet_keypoints.load_movenet()
    boxes = [p["bbox"] for p in people]
    found = movenet_keypoints.movenet_keypoints(network, photo, boxes)
    assert found.shape == (len(people), 17, 3)
    for person, keypoints in zip(people, found, strict=True):
        labels = np.reshape(person["keypoints"], (17, 3))
        size = np.sqrt(person["bbox"][2] * person["bbox"][3])
        right = np.linalg.norm(keypoints[:, :2] - labels[:, :2], axis=1) < 0.1 * size
        assert right[labels[:, 2] > 0].mean() > 0.8
        alone = movenet_keypoints.movenet_keypoints(network, photo, person["bbox"])
        np.testing.assert_array_equal(alone, keypoints)


def test_smaller_crops_show_the_same_people(shared_dir):
    """People of an open photo in crops of 128 to 256 pixels: points within a tenth of the box."""
    folder = shared_dir / "data" / "coco_people_open"
    people = json.loads((folder / "people.json").read_text())["annotations"]
    image_id = people[0]["image_id"]
    boxes = [p["bbox"] for p in people if p["image_id"] == image_id and p["num_keypoints"] >= 10]
    photo = load_image(folder / "images" / f"{image_id:012d}.jpg")
    network = movenet_keypoints.load_movenet()

    def look(size: int) -> np.ndarray:
        return keypoints_in_boxes(
            photo, boxes, lambda crops: movenet_keypoints.run_movenet(network, crops), size=size
        )

    whole = look(256)
    for size in (128, 160, 192):
        far = np.linalg.norm((look(size) - whole)[..., :2], axis=2)
        for box, each, sure in zip(boxes, far, whole[..., 2] > 0.4, strict=True):
            assert sure.sum() >= 8
            assert (each[sure] < 0.1 * np.sqrt(box[2] * box[3])).mean() >= 0.8


def test_keypoints_of_a_moved_photo_move_with_it():
    """Photo pixels: a box moved with the picture by whole pixels gives the same keypoints there."""
    network = seeded_network("tiny")
    photo = np.random.default_rng(0).integers(0, 256, (90, 80, 3), dtype=np.uint8)
    wider = np.pad(photo, ((7, 0), (12, 0), (0, 0)))
    here = movenet_keypoints.movenet_keypoints(network, photo, [20, 30, 30, 40])
    there = movenet_keypoints.movenet_keypoints(network, wider, [32, 37, 30, 40])
    np.testing.assert_allclose(there - here, np.broadcast_to([12.0, 7.0, 0.0], (17, 3)), atol=1e-3)


def test_keypoint_boxes_are_checked():
    network, photo = seeded_network("tiny"), np.zeros((20, 20, 3), np.uint8)
    assert movenet_keypoints.movenet_keypoints(network, photo, np.zeros((0, 4))).shape == (0, 17, 3)
    with pytest.raises(ValueError, match=r"boxes must be x, y, w, h, \[4\] or \[N, 4\], got \[3\]"):
        movenet_keypoints.movenet_keypoints(network, photo, [1, 2, 3])
    with pytest.raises(TypeError, match="uint8"):
        movenet_keypoints.movenet_keypoints(network, photo.astype(float), [1, 2, 3, 4])
