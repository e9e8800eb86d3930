"""What the modes tune, where networks are cut, and networks of other people's making."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from eft_fast.eft.batched.layers import can_stack
from eft_fast.eft.batched.slots import SlotFitter
from eft_fast.eft.config import EFT_MODES, MODE_LR, EftConfig
from eft_fast.eft.modes import LoraLayer, make_network, share, tuned_parameters
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.models.hmr import Hmr
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.pipeline.dispatch import make_slot_fitter
from eft_fast.pipeline.predict import output_loss
from tests.eft import toy
from tests.eft.crops import fit_crops, prepare
from tests.eft.test_slots import assert_same, fit_in_slots, make_config

STAGES = ("layer3", "layer4", "feature", "head")


@pytest.fixture(scope="module", params=["toy", "open", "hmr"])
def regressor(request):
    if request.param == "hmr":
        torch.manual_seed(0)
        return Hmr().eval()
    return toy.make_regressor() if request.param == "toy" else OpenRegressor.make_tiny()


def crops(regressor, count=1):
    size = regressor.input_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_cut_networks_are_whole(regressor):
    """Up to a stage and on from there is the forward pass, bit by bit."""
    img = crops(regressor)
    with torch.no_grad():
        want = regressor(img)
        for stage in STAGES:
            got = regressor.run_from(stage, regressor.run_to(stage, img))
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
        features = regressor.run_to("feature", img)
    assert features.ndim == 2
    assert len(features) == 1


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_from_a_stage_are_those_that_matter(regressor, stage):
    """Exactly the weights that ``run_from`` reads and that move the answer."""
    network, mapping = share(regressor, list(regressor.parameters()))
    names = {id(parameter): name for name, parameter in regressor.named_parameters()}
    with torch.no_grad():
        state = network.run_to(stage, crops(network))
    output = network.run_from(stage, state)
    sum(value.square().sum() for value in output).backward()
    norms = {
        name
        for name, module in regressor.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    }
    moving = {
        names[old]
        for old, new in mapping.items()
        if new.grad is not None and new.grad.abs().sum() > 0
    }
    moving = {name for name in moving if name.rpartition(".")[0] not in norms}
    tuned = tuned_parameters(regressor, stage) if stage != "feature" else None
    if tuned is not None:
        assert {names[id(parameter)] for parameter in tuned} == moving


def test_sizes_of_the_modes():
    """ResNet-50: the counts of the reference's layer sets."""
    regressor = Hmr()
    counts = {
        mode: sum(parameter.numel() for parameter in tuned_parameters(regressor, mode))
        for mode in ("full", "layer3", "layer4", "head", "feature")
    }
    assert counts == {
        "full": 26_924_381,
        "layer3": 25_489_565,
        "layer4": 18_411_677,
        "head": 3_469_469,
        "feature": 2048,
    }


class Uncut(toy.ToyRegressor):
    """A regressor that keeps only the promise of the base class."""

    stages = ("head",)


def test_modes_that_a_regressor_lacks_are_refused():
    net, body = Uncut(), toy.ToyBody()
    for mode in ("layer3", "layer4", "feature"):
        with pytest.raises(ValueError, match=f"mode '{mode}' needs a regressor that can be cut"):
            SlotFitter(net, body, config=EftConfig(), mode=mode, slots=1)
    for mode in ("full", "head", "lora"):
        make_network(net, mode)
    with pytest.raises(ValueError, match="stage must be one of head, got 'layer4'"):
        Regressor.run_to(net, "layer4", torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"mode must be one of full, layer3, .*, got 'all'"):
        make_network(net, "all")


def test_learning_rates_of_the_modes():
    assert EftConfig().lr_of("full") == EftConfig().lr_of("head") == 5e-6
    assert EftConfig().lr_of("feature") == MODE_LR["feature"] > EftConfig().lr_of("full")
    assert EftConfig(lr=1.0).lr_of("feature") == 1.0


def test_lora_starts_at_the_regressor_and_adds_low_rank():
    net = toy.make_regressor()
    state = torch.get_rng_state()
    network, factors = make_network(net, "lora", EftConfig(lora_rank=2))
    assert torch.equal(torch.get_rng_state(), state), "the user's random numbers are theirs"
    img = crops(net)
    with torch.no_grad():
        want, got = net(img), network(img)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    layers = [module for module in network.modules() if isinstance(module, LoraLayer)]
    assert len(factors) == 2 * len(layers)
    for layer in layers:
        assert layer.up.weight.shape[1] == layer.down.weight.shape[0] <= 2
    assert not any(isinstance(module, LoraLayer) for module in net.modules())


def test_lora_loop_equals_summed_weights():
    """The loop with factors beside each layer against ``W0 + U D`` in the layer itself."""
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(1, torch.float64)
    config = make_config("lora", max_steps=6)
    network, factors = make_network(net, "lora", config)
    layers = {
        name.removeprefix("regressor."): module
        for name, module in network.named_modules()
        if isinstance(module, LoraLayer)
    }
    factors = [factor.detach().clone().requires_grad_() for factor in factors]
    optimiser = torch.optim.Adam(factors, lr=config.lr)
    start = {name: value.detach() for name, value in net.named_parameters()}
    for _ in range(config.max_steps):
        weights = dict(start)
        for name, down, up in zip(layers, factors[::2], factors[1::2], strict=True):
            product = up.flatten(1) @ down.flatten(1)
            weights[f"{name}.weight"] = start[f"{name}.weight"] + product.reshape(
                start[f"{name}.weight"].shape
            )
        output = functional_call(net, weights, (img,))
        loss, _ = output_loss(body, output, target, config.loss)
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
    fits = fit_crops(net, body, img, target, config=config, mode="lora")
    torch.testing.assert_close(fits.final.params.full_pose, output.pred_rotmat, rtol=0, atol=1e-10)


class Third(Regressor):
    """Somebody's network of standard layers, several of which have no stacked twin."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.id, self.body_id = toy.INPUT_SIZE, "third", "toy"
        self.enter = nn.Conv2d(3, 8, 5, 4, 2, padding_mode="reflect")
        self.norm = nn.GroupNorm(2, 8)
        self.widen = nn.ConvTranspose2d(8, 8, 2, 2)
        self.along = nn.Conv1d(8, 4, 9, 8)
        self.mix = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
        self.token = nn.Parameter(0.1 * torch.randn(1, 1, 4))
        self.leave = nn.Linear(4 * 128, 157)
        self.scale = nn.Parameter(torch.tensor(0.3))

    def features(self, img: Tensor) -> Tensor:
        x = self.widen(nn.functional.silu(self.norm(self.enter(img))))
        x = self.along(x.flatten(2)).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.mix(x).flatten(1)

    def head_forward(self, features: Tensor, *, raw_camera: bool = False) -> RegressorOutput:
        out = self.scale * self.leave(features)
        identity = torch.eye(3)[:, :2].reshape(6).repeat(24).to(out)
        camera = out[:, 154:] + out.new_tensor([0.9, 0, 0])
        return RegressorOutput(toy.to_matrix(out[:, :144] + identity), out[:, 144:154], camera)

    def forward(self, img: Tensor, *, raw_camera: bool = False) -> RegressorOutput:
        return self.head_forward(self.features(img))

    def trunk_parameters(self):
        head = {id(parameter) for parameter in self.head_parameters()}
        return (parameter for parameter in self.parameters() if id(parameter) not in head)

    def head_parameters(self):
        return iter([*self.leave.parameters(), self.scale])


@pytest.mark.parametrize("mode", ["full", "head", "lora"])
def test_a_third_network_is_fitted(mode):
    """Layers without a batched form: the general way fits them, equal to the loop."""
    torch.manual_seed(2)
    net, body = Third().double().eval(), toy.ToyBody(torch.float64)
    img, target = toy.make_people(3, torch.float64)
    config = make_config(mode, max_steps=8, lr=1e-3)
    loop = fit_crops(net, body, img, target, config=config, mode=mode)
    fitter = make_slot_fitter(net, body, config=config, mode=mode, slots=2)
    fits = dict(fitter.fit(prepare(img, target)))
    assert_same([fits[i] for i in range(3)], loop, atol=1e-10)
    assert (loop.final.params.full_pose - loop.init.params.full_pose).abs().max() > 0.01
    assert (loop.loss < loop.init_loss).all()
    network, tuned = make_network(net, "full", config)
    assert not can_stack(network, tuned)
    if mode == "full":
        with pytest.raises(ValueError, match=r"has no batched form|must be padded with zeros"):
            fit_in_slots(net, body, img, target, config=config, batched=True)


def test_every_mode_names_itself():
    """No mode stands in for another: all give different answers."""
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = toy.make_people(1)
    config = make_config(max_steps=3)
    answers = [
        fit_crops(net, body, img, target, config=replace(config, lr=None), mode=mode)
        for mode in EFT_MODES
    ]
    for i, one in enumerate(answers):
        for other in answers[:i]:
            assert not torch.equal(one.final.params.full_pose, other.final.params.full_pose)
