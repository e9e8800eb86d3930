from __future__ import annotations

import pytest
import torch

from eft_fast.body import Smpl
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.synth import SynthArrays
from eft_fast.training.confidence import observe, train_confidence
from eft_fast.training.targets import Targets
from tests.training.pictures import Pictures


def world(count: int, seed: int, *, harder: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """People whose joints are near with a probability that one direction of the input decides."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 16, generator=generator) * 3 + 1
    odds = torch.sigmoid(0.8 * (hidden[:, :1] - 1) - harder).expand(-1, 24)
    return hidden, (torch.rand(odds.shape, generator=generator) < odds).float()


def confidence(network: OpenRegressor, hidden: torch.Tensor) -> torch.Tensor:
    assert network.head.certainty is not None
    with torch.no_grad():
        return network.head.certainty(hidden).sigmoid()


def test_confidence_is_a_probability_on_people_never_seen(network: OpenRegressor) -> None:
    """Everybody but the trained ones is harder: the validation split must move the answer."""
    train_confidence(network, world(3000, 0), world(1500, 1, harder=1.5))
    hidden, near = world(3000, 2, harder=1.5)
    said = confidence(network, hidden)
    bins = (10 * said).long().clamp(max=9).flatten()
    gap = torch.zeros(10).index_add(0, bins, (said - near).flatten())
    assert gap.abs().sum() / said.numel() < 0.02  # expected calibration error
    brier = (said - near).square().mean()
    assert brier < 0.75 * near.var()
    assert (said.mean() - near.mean()).abs() < 0.02


def test_answers_do_not_change(
    network: OpenRegressor, arrays: SynthArrays, targets: Targets, open_body: Smpl
) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    seen = observe(network, open_body, Pictures(arrays.image), targets)
    assert seen[0].shape == (12, 16)
    assert seen[1].shape == (12, 24)
    assert (seen[1][:, 0] == 1).all()  # the pelvis is where errors are counted from
    train_confidence(network, seen, seen)
    changed = {n for n, v in network.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"head.certainty.weight", "head.certainty.bias"}


def test_near_means_within_the_stated_distance(
    network: OpenRegressor, arrays: SynthArrays, targets: Targets, open_body: Smpl
) -> None:
    source = Pictures(arrays.image)
    with torch.no_grad():
        output = network.eval()(source.take(torch.arange(12), torch.zeros(12, dtype=torch.bool)))
    joints = open_body.keypoints(
        output.pred_betas, output.pred_rotmat[:, 1:], output.pred_rotmat[:, :1],
        joint_set="smpl24", pose2rot=False,
    )  # fmt: skip
    truth = targets._replace(joints=joints - joints[:, :1])
    assert observe(network, open_body, source, truth)[1].all()
    moved = truth._replace(joints=truth.joints + torch.tensor([0.0, 0.101, 0.0]))
    assert not observe(network, open_body, source, moved)[1].any()


def test_a_network_without_the_layer_is_refused() -> None:
    network = OpenRegressor(OpenRegressor.make_tiny().trunk, width=16, blocks=1, confidence=False)
    with pytest.raises(ValueError, match="no layer for confidence"):
        train_confidence(network, world(4, 0), world(4, 1))
    assert network.joint_confidence(network.features(torch.zeros(1, 3, 256, 256))) is None
