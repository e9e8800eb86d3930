"""HMR: counts, names and layout of SPIN, frozen batch norm, camera conversion."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from eft_fast.models.hmr import Hmr
from tests.models.plain_hmr import make_state, plain_forward


def count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)


@pytest.fixture(scope="module")
def network() -> Hmr:
    network = Hmr()
    network.load_state_dict(make_state(network))
    return network.eval()


def test_parameter_counts(network):
    assert count(network.parameters()) == 26_977_501
    assert count(p for p in network.parameters() if p.requires_grad) == 26_924_381
    assert count([*network.trunk_parameters(), *network.head_parameters()]) == 26_924_381
    assert count(network.head_parameters()) == 3_469_469
    assert count(network.parameters()) - count(network.head_parameters()) == 23_508_032


def test_state_dict_has_the_names_of_spin(network):
    names = set(network.state_dict())
    expected = {
        "conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.running_var", "layer3.5.bn3.weight", "layer4.2.conv3.weight",
        "fc1.weight", "fc2.bias", "decpose.weight", "decshape.bias", "deccam.weight",
        "init_pose", "init_shape", "init_cam",
    }  # fmt: skip
    assert expected <= names
    # 53 convolutions, 53 batch norms of 5 tensors, 5 linear layers, 3 buffers.
    assert len(names) == 53 + 53 * 5 + 10 + 3
    assert network.state_dict()["init_pose"].shape == (1, 144)
    assert network.fc1.weight.shape == (1024, 2205)


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_forward_matches_plain_form(stride_in_1x1):
    network = Hmr(stride_in_1x1=stride_in_1x1).eval()
    state = make_state(network)
    network.load_state_dict(state)
    img = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        output = network(img, raw_camera=True)
        expected = plain_forward(state, img, stride_in_1x1=stride_in_1x1)
        other = plain_forward(state, img, stride_in_1x1=not stride_in_1x1)
    for got, want, wrong in zip(output, expected, other, strict=True):
        # float32 through 50 layers; measured 2e-5.
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
        assert (got - wrong).abs().max() > 1e-2  # the place of the stride matters


def test_camera_is_converted_once(network):
    """u = s * (X + t) = s * X + s * t."""
    img = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        raw = network(img, raw_camera=True).pred_cam
        ours = network(img).pred_cam
    torch.testing.assert_close(ours[:, 0], raw[:, 0])
    torch.testing.assert_close(ours[:, 1:], raw[:, :1] * raw[:, 1:])
    assert network.camera_convention == "scale_shift"
    weak = Hmr(weights_camera="scale_shift").eval()
    weak.load_state_dict(network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(weak(img).pred_cam, raw)


def test_batch_norm_is_frozen_and_dropout_obeys_the_mode(network):
    network.train()
    assert not any(m.training for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert network.drop1.training
    before = network.bn1.running_mean.clone()
    img = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert not torch.equal(network(img).pred_betas, network(img).pred_betas)
    assert torch.equal(network.bn1.running_mean, before)
    network.eval()
    with torch.no_grad():
        assert torch.equal(network(img).pred_betas, network(img).pred_betas)


def test_every_tuned_weight_receives_gradient(network):
    output = network(torch.randn(1, 3, 224, 224))
    (output.pred_rotmat[..., 0].sum() + output.pred_betas.sum() + output.pred_cam.sum()).backward()
    tuned = {id(p) for p in (*network.trunk_parameters(), *network.head_parameters())}
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == (id(parameter) in tuned), name
        if parameter.grad is not None:
            assert parameter.grad.abs().max() > 0, name
    network.zero_grad()


def test_new_network_follows_the_init_rules():
    network = Hmr()
    conv = network.layer2[0].conv2
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    bound = 0.01 * (6 / (1024 + 144)) ** 0.5
    assert network.decpose.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert network.bn1.weight.eq(1).all()
    assert network.bn1.bias.eq(0).all()
    assert network.checkpoint is None


def test_rejects_bad_arguments(network):
    with pytest.raises(ValueError, match=r"img must be \[B, 3, 224, 224\], got \[1, 3, 256, 256\]"):
        network(torch.randn(1, 3, 256, 256))
    with pytest.raises(ValueError, match="weights_camera must be one of"):
        Hmr(weights_camera="pinhole")
