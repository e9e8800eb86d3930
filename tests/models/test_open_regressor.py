"""The open regressor: layers, frames, gradients, and its file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from eft_fast import imaging
from eft_fast.models.base import Regressor
from eft_fast.models.blazepose import BlazePose, BlazePoseOutput
from eft_fast.models.open_file import (
    OPEN_REGRESSOR_PATH,
    load_open_regressor,
    read_card,
    save_open_regressor,
)
from eft_fast.models.open_regressor import (
    LANDMARK_ROWS,
    MIN_FEATURE_STD,
    NUM_LANDMARK_FEATURES,
    OpenRegressor,
    landmark_features,
    to_landmarks,
)
from tests.assets import make_open_regressor_golden as golden_script
from tests.helpers import check_forward_is_features_then_head


def random_crops(batch: int) -> torch.Tensor:
    """Blurred noise."""
    coarse = torch.rand(batch, 3, 16, 16)
    return torch.nn.functional.interpolate(coarse, 256, mode="bilinear")


def random_output(batch: int) -> BlazePoseOutput:
    landmarks = torch.rand(batch, 39, 5, dtype=torch.float64) * 200 + 20
    landmarks[..., 3:] = torch.randn(batch, 39, 2)
    world = torch.randn(batch, 39, 3, dtype=torch.float64)
    return BlazePoseOutput(landmarks, world, torch.rand(batch), torch.rand(batch, 32))


def test_trunk_sees_the_picture_in_zero_to_one():
    network = OpenRegressor.make_tiny()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8)
    img = torch.from_numpy(imaging.to_input(pixels, network.img_mean, network.img_std))
    rgb = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        got = network.features(img)
        expected = network.trunk(rgb)
    torch.testing.assert_close(got.landmarks, expected.landmarks, rtol=0, atol=0)


def test_forward_is_features_then_head():
    check_forward_is_features_then_head(OpenRegressor.make_tiny(), random_crops(3))


def test_features_do_not_depend_on_place_and_size():
    """Moving and scaling the landmarks changes the frame only."""
    output = random_output(4)
    scale, shift = 0.6, torch.tensor([13.0, -7.0])
    moved = output.landmarks.clone()
    moved[..., :3] *= scale
    moved[..., :2] += shift
    first, frame = landmark_features(output)
    second, moved_frame = landmark_features(output._replace(landmarks=moved))
    assert first.shape == (4, NUM_LANDMARK_FEATURES)
    torch.testing.assert_close(first[:, :-3], second[:, :-3], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moved_frame.size, frame.size * scale)
    center_px = (frame.center + 1) * 128
    torch.testing.assert_close((moved_frame.center + 1) * 128, center_px * scale + shift)


def test_features_of_one_landmark():
    """Written out for the left elbow (row 13 of mp33), by the definitions."""
    output = random_output(1)
    features, frame = landmark_features(output)
    limbs = output.landmarks[0, [11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28], :2] / 128 - 1
    center = limbs.mean(0)
    size = ((limbs - center) ** 2).sum(1).mean().sqrt()
    torch.testing.assert_close(frame.center[0], center)
    torch.testing.assert_close(frame.size[0, 0], size)
    row, count = LANDMARK_ROWS.index(13), len(LANDMARK_ROWS)
    xy = (output.landmarks[0, 13, :2] / 128 - 1 - center) / size
    torch.testing.assert_close(features[0, 2 * row : 2 * row + 2], xy)
    torch.testing.assert_close(
        features[0, 2 * count + row], output.landmarks[0, 13, 2] / 128 / size
    )
    world = 3 * count + 3 * row
    torch.testing.assert_close(features[0, world : world + 3], output.world[0, 13])
    odds = 6 * count + 2 * row
    torch.testing.assert_close(features[0, odds : odds + 2], output.landmarks[0, 13, 3:].sigmoid())


def test_camera_follows_the_landmarks():
    """A silent head puts the camera on the landmark frame."""
    network = OpenRegressor.make_tiny()
    torch.nn.init.zeros_(network.head.leave.weight)
    img = random_crops(2)
    with torch.no_grad():
        output = network(img)
        _, frame = landmark_features(network.features(img))
    torch.testing.assert_close(output.pred_cam[:, 1:], frame.center)
    torch.testing.assert_close(output.pred_cam[:, :1], 1.9 * frame.size)
    torch.testing.assert_close(output.pred_rotmat, torch.eye(3).expand(2, 24, 3, 3))


def test_collapsed_landmarks_give_finite_gradients():
    output = random_output(1)
    landmarks = torch.full_like(output.landmarks, 128.0).requires_grad_()
    features, _ = landmark_features(output._replace(landmarks=landmarks))
    features.sum().backward()
    assert landmarks.grad is not None
    assert torch.isfinite(landmarks.grad).all()


def test_every_tuned_weight_receives_gradient():
    network = OpenRegressor.make_tiny()
    output = network(random_crops(4))
    sum(value.square().sum() for value in output[1:]).backward(retain_graph=True)
    output.pred_rotmat[..., 0].sum().backward()
    tuned = [*network.trunk_parameters(), *network.head_parameters()]
    names = {id(p): name for name, p in network.named_parameters()}
    for parameter in tuned:
        assert parameter.grad is not None, names[id(parameter)]
        assert parameter.grad.abs().max() > 0, names[id(parameter)]
    left_out = set(names) - {id(p) for p in tuned}
    unused = ("trunk.score_out.", "trunk.laterals.", "trunk.heatmap_out.", "head.certainty.")
    assert all(names[i].startswith(unused) for i in left_out)
    assert len(left_out) == 2 + 16 + 2 + 2


def test_confidence_reads_the_hidden_layer_and_leaves_the_answer():
    network = OpenRegressor.make_tiny()
    img = random_crops(3)
    with torch.no_grad():
        before = network(img)
        even = network.joint_confidence(network.features(img))
        torch.nn.init.normal_(network.head.certainty.weight)
        sure = network.joint_confidence(network.features(img))
        after = network(img)
    assert sure.shape == (3, 24)
    assert ((sure > 0) & (sure < 1)).all()
    assert (sure - even).abs().max() > 0.01
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("confidence", [True, False])
def test_answer_and_confidence_of_one_pass_are_those_of_two(confidence):
    """Bitwise, and the confidence has no part in the gradient of the answer."""
    network = OpenRegressor.make_tiny()
    network = OpenRegressor(network.trunk, width=16, blocks=1, confidence=confidence).eval()
    features = network.features(torch.rand(2, 3, 256, 256))
    answer, said = network.head_with_confidence(features)
    for part, other in zip(answer, network.head_forward(features), strict=True):
        assert torch.equal(part, other)
    expected, by_default = (
        network.joint_confidence(features),
        Regressor.head_with_confidence(network, features)[1],
    )
    if not confidence:
        assert said is expected is by_default is None
        return
    assert torch.equal(said, expected)
    assert torch.equal(by_default, expected)
    assert answer.pred_betas.requires_grad
    assert not said.requires_grad


def test_evaluation_mode_is_deterministic():
    network = OpenRegressor.make_tiny()
    img = random_crops(1)
    with torch.no_grad():
        assert torch.equal(network(img).pred_rotmat, network(img).pred_rotmat)
        network.train()
        assert not torch.equal(network(img).pred_rotmat, network(img).pred_rotmat)


def test_landmarks_in_crop_units():
    output = random_output(2)
    landmarks = to_landmarks(output)
    assert landmarks.points.shape == (2, 33, 3)
    torch.testing.assert_close(landmarks.points[..., :2], output.landmarks[:, :33, :2] / 128 - 1)
    torch.testing.assert_close(landmarks.points[..., 2], output.landmarks[:, :33, 2] / 128)
    torch.testing.assert_close(landmarks.visibility, output.landmarks[:, :33, 3].sigmoid())
    torch.testing.assert_close(landmarks.presence, output.landmarks[:, :33, 4].sigmoid())


def test_feature_statistics_have_a_floor():
    network = OpenRegressor.make_tiny()
    size = network.head.feature_mean.shape
    mean_pose = torch.eye(3)[:, :2].reshape(6).repeat(24, 1) + 0.1
    network.set_feature_statistics(torch.ones(size), torch.zeros(size), mean_pose)
    assert network.head.feature_std.min() == pytest.approx(MIN_FEATURE_STD)
    assert torch.equal(network.head.mean_pose, mean_pose.reshape(-1))


def test_sizes_of_the_full_network():
    network = OpenRegressor(BlazePose("full"))
    head = sum(p.numel() for p in network.head_parameters())
    assert head == 1_836_701  # 1371 features, width 512, two blocks
    assert network.input_size == 256
    assert network.id == "open-1"
    assert network.camera_convention == "scale_shift"


def test_rejects_wrong_crop():
    with pytest.raises(ValueError, match=r"img must be \[B, 3, 256, 256\], got \[1, 3, 224, 224\]"):
        OpenRegressor.make_tiny()(torch.rand(1, 3, 224, 224))


def save(network, path):
    save_open_regressor(network, path, licence="Apache-2.0", source_sha256="0" * 64)


def test_file_round_trip(tmp_path):
    """Half precision costs little; a second save gives the same bytes."""
    network = OpenRegressor.make_tiny()
    network.head.feature_mean.uniform_()
    save(network, tmp_path / "a.npz")
    loaded = load_open_regressor(tmp_path / "a.npz")
    save(loaded, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert not loaded.training
    for name, value in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=1e-3, atol=1e-6)
    assert torch.equal(loaded.head.feature_mean, network.head.feature_mean)
    card = read_card(tmp_path / "a.npz")
    assert card["id"] == "open-1"
    assert card["body_id"] == "open-1"
    assert card["camera_convention"] == "scale_shift"
    assert card["licence"] == "Apache-2.0"


def rewrite(path, target, **changes):
    """Copy a weights file with other arrays; None drops one."""
    arrays = dict(np.load(path)) | changes
    np.savez(target, **{name: array for name, array in arrays.items() if array is not None})


def test_rejects_bad_files(tmp_path):
    good = tmp_path / "good.npz"
    save(OpenRegressor.make_tiny(), good)
    bad = tmp_path / "bad.npz"

    with pytest.raises(FileNotFoundError, match="no file"):
        load_open_regressor(tmp_path / "none.npz")
    for content in (b"", b"text", good.read_bytes()[:2000]):
        bad.write_bytes(content)
        with pytest.raises(
            ValueError, match="not a weights file of the open regressor, or damaged"
        ):
            load_open_regressor(bad)
    np.savez(bad, card=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="not a weights file"):
        load_open_regressor(bad)
    rewrite(good, bad, card=np.array(json.dumps({"format": "other"})))
    with pytest.raises(ValueError, match="must have format"):
        load_open_regressor(bad)
    rewrite(good, bad, **{"state/head.leave.bias": None})
    with pytest.raises(ValueError, match=r"missing head\.leave\.bias, unexpected none"):
        load_open_regressor(bad)
    rewrite(good, bad, card=np.array(json.dumps(read_card(good) | {"trunk": "heavy"})))
    with pytest.raises(ValueError, match="does not describe its network"):
        load_open_regressor(bad)


def test_shipped_weights_give_the_stored_answer():
    """File, input range, trunk and head: nothing moved since the weights shipped."""
    if not OPEN_REGRESSOR_PATH.exists():
        pytest.skip("eft_fast/assets/open_regressor.npz is absent")
    golden = np.load(golden_script.GOLDEN_PATH)
    got = golden_script.answer()
    assert str(got["sha256"]) == str(golden["sha256"]), "weights changed: make the golden file anew"
    for name in ("pred_rotmat", "pred_betas", "pred_cam"):
        # Other CPUs sum in another order; the landmarks are hundreds of pixels. Measured 2e-6.
        np.testing.assert_allclose(got[name], golden[name], rtol=0, atol=1e-3)
