"""Many people at once equal the one-by-one loop; the mutants of this suite are in mutants.py."""

from __future__ import annotations

import pytest
import torch

from eft_fast.fitting.config import EftConfig
from eft_fast.fitting.eft import fit_crops
from eft_fast.fitting.modes import tuned_parameters
from eft_fast.fitting.optim import StackedAdam
from eft_fast.fitting.person import CropJob, output_loss
from eft_fast.fitting.slots import SlotFitter
from eft_fast.fitting.stacked import StackedRegressor
from tests.fitting import toy

MODES = ("full", "layer4", "head")


def fit_in_slots(net, body, img, target, *, config, mode="full", slots=4, batched=True):
    fitter = SlotFitter(net, body, config=config, mode=mode, slots=slots, batched=batched)
    jobs = (CropJob(i, img[i], target[i]) for i in range(len(img)))
    fits = dict(fitter.fit(jobs))
    return [fits[i] for i in range(len(img))]


def assert_same(batch, loop, *, atol):
    for person, fit in enumerate(batch):
        assert fit.stop_reason == loop.stop_reason[person]
        assert fit.steps == int(loop.steps[person])
        for got, want in (
            (fit.final.pred_rotmat[0], loop.final.params.full_pose[person]),
            (fit.final.pred_betas[0], loop.final.betas[person]),
            (fit.final.pred_cam[0], loop.final.pred_cam[person]),
            (fit.init.pred_rotmat[0], loop.init.params.full_pose[person]),
        ):
            torch.testing.assert_close(got, want, rtol=0, atol=atol, equal_nan=True)
        torch.testing.assert_close(fit.loss[0], loop.loss[person], rtol=0, atol=60 * atol)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("people", [1, 2, 4, 7])
def test_batch_equals_loop_in_float64(mode, people):
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(people, torch.float64)
    config = EftConfig(lr=toy.LR, max_steps=toy.STEPS, threshold=0.0)
    loop = fit_crops(net, body, img, target, config=config, mode=mode)
    batch = fit_in_slots(net, body, img, target, config=config, mode=mode, slots=people)
    assert_same(batch, loop, atol=1e-10)
    assert (loop.final.params.full_pose - loop.init.params.full_pose).abs().max() > 0.01


def test_batch_in_float32_is_as_good_as_the_loop():
    """Both stay equally close to the float64 loop: the difference is rounding, not method."""
    config = EftConfig(lr=toy.LR, max_steps=toy.STEPS, threshold=0.0)
    exact_img, exact_target = toy.make_people(4, torch.float64)
    exact = fit_crops(
        toy.make_regressor(torch.float64), toy.ToyBody(torch.float64), exact_img, exact_target,
        config=config,
    )  # fmt: skip
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = exact_img.float(), exact_target.float()
    loop = fit_crops(net, body, img, target, config=config)
    batch = fit_in_slots(net, body, img, target, config=config)
    want = exact.final.params.full_pose
    loop_error = (loop.final.params.full_pose.double() - want).abs().max().item()
    rows = torch.cat([fit.final.pred_rotmat for fit in batch]).double()
    batch_error = (rows - want).abs().max().item()
    assert batch_error <= min(4 * max(loop_error, 1e-5), 5e-4)


@pytest.mark.parametrize("slots", [1, 2, 3, 7])
def test_refilled_slots_equal_fresh_ones(slots):
    """Early stops at different steps, fewer slots than people: same counts, same answers."""
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(7, torch.float64)
    config = EftConfig(lr=toy.LR, max_steps=12, threshold=_separating_threshold(net, body))
    loop = fit_crops(net, body, img, target, config=config)
    assert len(set(loop.steps.tolist())) > 2, "the threshold must separate people"
    assert_same(fit_in_slots(net, body, img, target, config=config, slots=slots), loop, atol=1e-10)


def _separating_threshold(net, body):
    img, target = toy.make_people(7, torch.float64)
    config = EftConfig(lr=toy.LR, max_steps=8, threshold=0.0)
    fits = fit_crops(net, body, img, target, config=config)
    return float((fits.loss / 300).median())


def test_order_does_not_matter():
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(5, torch.float64)
    config = EftConfig(lr=toy.LR, max_steps=6, threshold=0.0)
    straight = fit_in_slots(net, body, img, target, config=config, slots=3)
    order = [4, 2, 0, 3, 1]
    mixed = fit_in_slots(net, body, img[order], target[order], config=config, slots=3)
    for place, person in enumerate(order):
        torch.testing.assert_close(
            mixed[place].final.pred_rotmat, straight[person].final.pred_rotmat, rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("mode", MODES)
def test_a_bad_person_leaves_the_others_bits_alone(mode):
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = toy.make_people(3)
    config = EftConfig(lr=toy.LR, max_steps=6, threshold=0.0)
    clean = fit_in_slots(net, body, img, target, config=config, mode=mode, slots=3)
    bad_img, bad_target = img.clone(), target.clone()
    bad_img[1] = float("nan")
    dirty = fit_in_slots(net, body, bad_img, target, config=config, mode=mode, slots=3)
    bad_target[1, :, 2] = 0
    unlabelled = fit_in_slots(net, body, img, bad_target, config=config, mode=mode, slots=3)
    assert dirty[1].stop_reason == "nan"
    assert unlabelled[1].stop_reason == "no_keypoints"
    for person in (0, 2):
        for other in (dirty, unlabelled):
            # The company shrinks, and products of another batch size may round differently.
            torch.testing.assert_close(
                other[person].final.pred_rotmat, clean[person].final.pred_rotmat,
                rtol=0, atol=1e-5,
            )  # fmt: skip


def test_stacked_adam_is_adam_per_slot():
    """Weights and both moments of single layers after 1, 2, 5 and 19 steps."""
    generator = torch.Generator().manual_seed(3)
    config = EftConfig(lr=1e-3)
    shapes = [(8, 3, 7, 7), (16, 16, 3, 3), (32, 64), (144,)]
    storages = [torch.zeros(3, *shape, dtype=torch.float64) for shape in shapes]
    adam = StackedAdam(storages, config)
    single = [
        [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
        for _ in range(3)
    ]
    optimisers = [torch.optim.Adam(weights, lr=1e-3) for weights in single]
    for step in range(1, 20):
        grads = [
            torch.randn(3, *shape, generator=generator, dtype=torch.float64)
            * 10.0
            ** torch.tensor([0.0, -3.0, -9.0], dtype=torch.float64).reshape(3, *(1,) * len(shape))
            for shape in shapes
        ]
        adam.step(list(grads))
        for slot in range(3):
            for weight, grad in zip(single[slot], grads, strict=True):
                weight.grad = grad[slot].clone()
            optimisers[slot].step()
        if step in (1, 2, 5, 19):
            for layer in range(len(shapes)):
                for slot in range(3):
                    state = optimisers[slot].state[single[slot][layer]]
                    for got, want in (
                        (storages[layer][slot], single[slot][layer].detach()),
                        (adam._state[layer].first[slot], state["exp_avg"]),
                        (adam._state[layer].second[slot], state["exp_avg_sq"]),
                    ):
                        # Where gradients cancel, rounding is relative to their size before.
                        atol = 1e-14 * float(want.abs().max())
                        torch.testing.assert_close(got, want, rtol=1e-12, atol=atol)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_private_and_complete(mode):
    """Each slot's gradient is that of its own loss, not a mean over the batch; none is missing."""
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(3, torch.float64)
    tuned = tuned_parameters(net, mode)
    stack = StackedRegressor(net, tuned, 3)
    features = net.features(img).detach()
    output = stack.network.head_forward(features) if mode == "head" else stack.network(img)
    loss = sum_of_losses(body, output, target)
    loss.backward()
    grads = [leaf.grad for _, leaf in stack.deltas()]
    assert len(grads) == len(tuned)
    for person in range(3):
        net.zero_grad()
        own = net(img[person : person + 1])
        sum_of_losses(body, own, target[person : person + 1]).backward()
        for weight, grad in zip(tuned, grads, strict=True):
            torch.testing.assert_close(grad[person], weight.grad, rtol=1e-9, atol=1e-12)
            assert grad[person].abs().max() > 0


def sum_of_losses(body, output, target):
    from eft_fast.losses.keypoints import EftLossWeights

    return output_loss(body, output, target, EftLossWeights())[0].sum()


def test_regressor_is_left_alone():
    net, body = toy.make_regressor(), toy.ToyBody()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    img, target = toy.make_people(2)
    config = EftConfig(lr=toy.LR, max_steps=3, threshold=0.0)
    first = fit_in_slots(net, body, img, target, config=config)
    second = fit_in_slots(net, body, img, target, config=config)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(first[0].final.pred_rotmat, second[0].final.pred_rotmat)


def test_nobody():
    net, body = toy.make_regressor(), toy.ToyBody()
    fitter = SlotFitter(net, body, config=EftConfig(), mode="full", slots=2)
    assert list(fitter.fit(iter(()))) == []
