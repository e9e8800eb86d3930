"""The regressor on MoveNet: its two inputs, frames, gradients, and its file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from eft_fast import conventions, fit_batch, imaging
from eft_fast.body import load_body
from eft_fast.eft.config import EftConfig
from eft_fast.eft.modes import share
from eft_fast.geometry.rotations import rot6d_to_matrix
from eft_fast.models import load_regressor
from eft_fast.models.base import RegressorOutput
from eft_fast.models.blazepose import BlazePose
from eft_fast.models.keypoint_rig import KeypointRig
from eft_fast.models.movenet import MoveNet, soft_keypoints
from eft_fast.models.movenet_file import load_movenet_regressor, save_movenet_regressor
from eft_fast.models.movenet_keypoints import load_movenet
from eft_fast.models.movenet_regressor import (
    Evidence,
    MoveNetRegressor,
    PointFrame,
    decode,
    encode,
    find_frame,
    keypoint_inputs,
)
from eft_fast.models.open_regressor import OpenRegressor
from tests.helpers import check_forward_is_features_then_head

HEAD = ("width", "blocks", "refine_blocks", "passes")


def random_crops(batch: int, size: int = 64) -> torch.Tensor:
    """Blurred noise."""
    coarse = torch.rand(batch, 3, 8, 8)
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear")


def random_given(batch: int) -> torch.Tensor:
    """Keypoints of a person of about the crop's size, a third of them missing."""
    given = torch.cat([torch.randn(batch, 17, 2) * 0.4, torch.rand(batch, 17, 1) * 0.5 + 0.5], -1)
    given[:, ::3] = 0
    return given


def network() -> MoveNetRegressor:
    return MoveNetRegressor.make_tiny()


def test_forward_is_features_then_head():
    check_forward_is_features_then_head(network(), random_crops(3))


def test_without_keypoints_it_answers_as_from_the_picture_alone():
    """None, and keypoints of which none is given, wherever they lie."""
    regressor, img = network(), random_crops(2)
    absent = random_given(2)
    absent[..., 2] = 0
    with torch.no_grad():
        alone = regressor(img)
        for given in (None, torch.zeros(2, 17, 3), absent):
            for a, b in zip(alone, regressor(img, given=given), strict=True):
                assert torch.equal(a, b)
        told = regressor(img, given=random_given(2))
    assert (told.pred_rotmat - alone.pred_rotmat).abs().max() > 1e-4


def test_keypoints_of_one_person_leave_the_others():
    regressor, img, given = network(), random_crops(3), random_given(3)
    with torch.no_grad():
        first = regressor(img, given=given)
        given[1] = random_given(1)[0]
        second = regressor(img, given=given)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
        assert not torch.equal(a[1], b[1])


def test_what_it_finds_is_what_movenet_finds():
    """Places of the published network in crop units, pixel 0 at -1."""
    regressor, img = network(), random_crops(2)
    with torch.no_grad():
        found, maps = regressor.features(img), regressor.trunk.maps(img)
    soft = soft_keypoints(maps, 8.0)
    crop = imaging.Crop(np.array([32.0, 32.0]), 64 / conventions.BOX_UNIT, 64)
    # The trunk counts from the edge of the crop, imaging from the centre of its first pixel.
    for got, pixels in ((found.points[..., :2], soft.points[..., :2]), (found.about, soft.about)):
        expected = crop.normalise(crop.to_image(pixels[0].double().numpy() - 0.5))
        np.testing.assert_allclose(got[0].numpy(), expected, atol=1e-5)
    assert ((found.points[..., 2] > 0) & (found.points[..., 2] < 1)).all()


def test_inputs_do_not_depend_on_place_and_size():
    """Moving and scaling all keypoints changes the frame only."""
    points = torch.cat([torch.randn(4, 17, 2) * 0.3, torch.rand(4, 17, 1)], -1).double()
    given, about = random_given(4).double(), torch.randn(4, 17, 2).double() * 0.3
    shift, zoom = torch.tensor([0.2, -0.1]).double(), 0.6

    def read(move):
        placed = torch.cat([move(points[..., :2]), points[..., 2:]], -1)
        told = torch.cat([move(given[..., :2]), given[..., 2:]], -1) * (given[..., 2:] > 0)
        spread = torch.full((4, 17), 0.1).double() * (zoom if move(shift)[0] != shift[0] else 1)
        evidence = Evidence(placed, move(about), spread, None)
        is_given = told[..., 2] > 0
        known = torch.where(is_given[..., None], told[..., :2], placed[..., :2])
        frame = find_frame(known, is_given, evidence)
        return keypoint_inputs(evidence, told, frame), frame

    first, frame = read(lambda xy: xy)
    second, moved = read(lambda xy: zoom * xy + shift)
    torch.testing.assert_close(first[:, :-3], second[:, :-3])
    torch.testing.assert_close(moved.size, zoom * frame.size)
    torch.testing.assert_close(moved.center, zoom * frame.center + shift)


@pytest.mark.parametrize("has_base", [True, False])
def test_a_silent_head_answers_as_the_base_or_stands_on_its_frame(has_base):
    regressor, img = network(), random_crops(2)
    if not has_base:
        regressor = MoveNetRegressor(regressor.trunk, regressor.head.rig, width=16, blocks=1)
    for net in (regressor.head.first, regressor.head.refine):
        torch.nn.init.zeros_(net.leave.weight)
    given = random_given(2)
    with torch.no_grad():
        output = regressor(img, given=given)
        evidence = regressor.features(img)
    if has_base:
        torch.testing.assert_close(output.pred_rotmat, evidence.base.rotmat, rtol=0, atol=1e-5)
        torch.testing.assert_close(output.pred_betas, evidence.base.betas)
        torch.testing.assert_close(output.pred_cam, evidence.base.camera, rtol=0, atol=1e-5)
        return
    assert evidence.base is None
    is_given = given[..., 2] > 0
    known = torch.where(is_given[..., None], given[..., :2], evidence.points[..., :2])
    frame = find_frame(known, is_given, evidence)
    torch.testing.assert_close(output.pred_cam[:, 1:], frame.center)
    torch.testing.assert_close(output.pred_cam[:, :1], 1.9 * frame.size)
    torch.testing.assert_close(output.pred_rotmat, torch.eye(3).expand(2, 24, 3, 3))


def test_encoded_bodies_decode_to_themselves():
    body = RegressorOutput(
        rot6d_to_matrix(torch.randn(3, 24, 6)),
        torch.randn(3, 10),
        torch.tensor([[0.5, 0.1, -0.3], [1.2, 0.0, 0.4], [0.8, -0.5, 0.2]]),
    )
    frame = PointFrame(torch.randn(3, 2), torch.rand(3, 1) + 0.2)
    for got, want in zip(decode(encode(body, frame), frame), body, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_the_base_sees_the_same_crop():
    regressor, img = network(), random_crops(2, 64)
    large = torch.nn.functional.interpolate(img, 256, mode="bilinear", align_corners=False)
    with torch.no_grad():
        want, said = regressor.base.head_with_confidence(regressor.base.features(large))
        got = regressor.features(img).base
    for a, b in zip(got, (*want, said), strict=True):
        assert torch.equal(a, b)


def test_a_base_that_is_sure_of_nothing_does_not_answer():
    """Person by person, as if there were none."""
    regressor, given = network(), random_given(3)
    with torch.no_grad():
        evidence = regressor.features(random_crops(3))
        whole = regressor.head_forward(evidence, given=given)
        none = regressor.head_forward(evidence._replace(base=None), given=given)
        confidence = evidence.base.confidence.clone()
        confidence[1] = 0
        silent = evidence._replace(base=evidence.base._replace(confidence=confidence))
        mixed = regressor.head_forward(silent, given=given)
    for a, b, c in zip(mixed, whole, none, strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
        torch.testing.assert_close(a[1], c[1], rtol=0, atol=1e-5)
        assert not torch.equal(b[1], c[1])


def test_a_base_without_confidence_is_refused():
    base = network().base
    base.has_confidence = False
    with pytest.raises(ValueError, match="base must say how sure it is"):
        MoveNetRegressor(network().trunk, network().head.rig, base)


def test_keypoints_in_one_place_give_finite_gradients():
    regressor = network()
    img = torch.zeros(1, 3, 64, 64).requires_grad_()
    given = torch.zeros(1, 17, 3)
    given[..., 2] = 1
    regressor(img, given=given).pred_rotmat.sum().backward()
    assert img.grad is not None
    assert torch.isfinite(img.grad).all()


@pytest.mark.parametrize("is_training", [False, True])
def test_every_tuned_weight_receives_gradient(is_training):
    regressor = network().train(is_training)
    answers = regressor.head(regressor.features(random_crops(4)))
    outputs = answers.outputs if is_training else answers.outputs[-1:]
    for output in outputs:
        total = sum(value.square().sum() for value in output[1:])
        (total + output.pred_rotmat[..., 0].sum()).backward(retain_graph=True)
    tuned = [*regressor.trunk_parameters(), *regressor.head_parameters()]
    names = {id(p): name for name, p in regressor.named_parameters()}
    for parameter in tuned:
        assert parameter.grad is not None, names[id(parameter)]
        assert parameter.grad.abs().max() > 0, names[id(parameter)]
    left_out = {names[i] for i in set(names) - {id(p) for p in tuned}}
    own = {name for name in left_out if not name.startswith("base.")}
    assert own == {"head.certainty.bias", "head.certainty.weight"}
    # Of the base what moves no answer: its own confidence, the person score, the heatmaps.
    parts = ("head.certainty", "trunk.score_out", "trunk.laterals", "trunk.heatmap_out")
    of_base = {name.removeprefix("base.") for name in left_out - own}
    assert all(name.startswith(parts) for name in of_base), of_base


@pytest.mark.parametrize("stage", MoveNetRegressor.stages)
def test_cut_networks_are_whole(stage):
    """Up to a stage and on from there is the forward pass; its weights are those that matter."""
    regressor, img = network(), random_crops(1)
    with torch.no_grad():
        want = regressor(img)
        got = regressor.run_from(stage, regressor.run_to(stage, img))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    copy, mapping = share(regressor, list(regressor.parameters()))
    with torch.no_grad():
        state = copy.run_to(stage, img)
    output = copy.run_from(stage, state)
    total = sum(value.square().sum() for value in output[1:]) + output.pred_rotmat[..., 0].sum()
    own = {name: mapping[id(p)] for name, p in regressor.named_parameters()}
    grads = torch.autograd.grad(total, list(own.values()), allow_unused=True)
    moved = {name for name, grad in zip(own, grads, strict=True) if grad is not None}
    names = {id(p): name for name, p in regressor.named_parameters()}
    assert {names[id(p)] for p in regressor.parameters_from(stage)} == moved


def test_answer_and_confidence_of_one_run_are_those_of_two():
    regressor = network()
    torch.nn.init.normal_(regressor.head.certainty.weight)
    features = regressor.features(random_crops(2))
    for given in (None, random_given(2)):
        answer, said = regressor.head_with_confidence(features, given=given)
        for part, other in zip(answer, regressor.head_forward(features, given=given), strict=True):
            assert torch.equal(part, other)
        assert torch.equal(said, regressor.joint_confidence(features, given=given))
        assert said.shape == (2, 24)
        assert answer.pred_betas.requires_grad
        assert not said.requires_grad


def test_a_head_without_the_layer_says_nothing(tmp_path):
    """As the start of a training on labels has it; the file knows."""
    regressor = network()
    regressor.head.certainty, regressor.has_confidence = None, False
    features = regressor.features(random_crops(1))
    assert regressor.joint_confidence(features) is None
    assert regressor.head_with_confidence(features)[1] is None
    save(regressor, tmp_path / "silent.npz")
    loaded = load_regressor(tmp_path / "silent.npz")
    assert loaded.head.certainty is None
    assert not loaded.has_confidence
    assert len(list(loaded.head_parameters())) == len(list(network().head_parameters()))


def test_rig_is_the_body():
    body = load_body()
    rig = KeypointRig.from_plan(body.points_plan("coco17"))
    rotmat, betas = rot6d_to_matrix(torch.randn(3, 24, 6)), torch.randn(3, 10)
    want = body.keypoints(betas, rotmat[:, 1:], rotmat[:, :1], joint_set="coco17", pose2rot=False)
    torch.testing.assert_close(rig(rotmat, betas), want, rtol=0, atol=1e-6)
    # Buffers may be written again, as by load_state_dict.
    other = KeypointRig(rig.sizes)
    assert other(rotmat, betas).abs().max() == 0
    other.load_state_dict(rig.state_dict())
    assert torch.equal(other(rotmat, betas), rig(rotmat, betas))
    assert torch.equal(rig.double().float()(rotmat, betas), other(rotmat, betas))


def test_crops_are_tighter_than_those_of_others():
    regressor = network()
    assert regressor.box_margin == conventions.BOX_MARGINS["open-2"] == 1.1
    assert conventions.box_margin_of(regressor.full_id) == 1.1
    assert conventions.box_margin_of("open-1:2d9ea62d0ab9f4fd") == conventions.BOX_MARGIN
    assert load_regressor("open-1").box_margin == conventions.BOX_MARGIN


def test_rejects_wrong_crop():
    with pytest.raises(ValueError, match=r"img must be \[B, 3, 64, 64\], got \[1, 3, 32, 32\]"):
        network()(torch.rand(1, 3, 32, 32))


def save(regressor, path):
    save_movenet_regressor(regressor, path, licence="Apache-2.0", source_sha256="0" * 64)


def test_file_round_trip(tmp_path):
    """Half precision costs little; a second save gives the same bytes."""
    regressor = network()
    save(regressor, tmp_path / "a.npz")
    loaded = load_regressor(tmp_path / "a.npz")
    save(loaded, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert not loaded.training
    assert loaded.full_id == f"open-2:{loaded.weights_hash}"
    img, given = random_crops(2), random_given(2)
    with torch.no_grad():
        pairs = zip(loaded(img, given=given), regressor(img, given=given), strict=True)
        for got, want in pairs:
            torch.testing.assert_close(got, want, rtol=0, atol=0.1)


def test_published_parts_are_not_written_again(tmp_path):
    """The file of a head alone gives back the whole network; changed parts are written."""
    parts = (load_movenet(), network().head.rig, load_regressor("open-1"))
    regressor = MoveNetRegressor(*parts, width=16, blocks=1)
    save(regressor, tmp_path / "head.npz")
    loaded = load_movenet_regressor(tmp_path / "head.npz")
    assert (tmp_path / "head.npz").stat().st_size < 1_000_000
    for part, published in (("trunk", load_movenet()), ("base", load_regressor("open-1"))):
        own = getattr(loaded, part).state_dict()
        for name, value in published.state_dict().items():
            assert torch.equal(own[name], value), name
    with torch.no_grad():
        regressor.trunk.top.bias += 0.25
    save(regressor, tmp_path / "trunk.npz")
    with torch.no_grad():
        regressor.base.head.leave.bias += 0.25
    save(regressor, tmp_path / "whole.npz")
    sizes = [(tmp_path / f"{name}.npz").stat().st_size for name in ("trunk", "whole")]
    assert 9_000_000 < sizes[0] < sizes[1] - 8_000_000
    changed = load_movenet_regressor(tmp_path / "whole.npz")
    assert torch.equal(changed.trunk.top.bias, regressor.trunk.top.bias.half().float())
    assert torch.equal(changed.base.head.leave.bias, regressor.base.head.leave.bias.half().float())


def test_the_small_network_is_written_and_read(tmp_path):
    """On Lightning, of which the file holds nothing, and without a base."""
    lite = MoveNetRegressor(load_movenet("lightning"), network().head.rig, width=16, blocks=1)
    assert (lite.id, lite.input_size, lite.box_margin) == ("open-2-lite", 192, 1.1)
    save(lite, tmp_path / "lite.npz")
    assert (tmp_path / "lite.npz").stat().st_size < 1_000_000
    loaded = load_regressor(tmp_path / "lite.npz")
    assert loaded.full_id.startswith("open-2-lite:")
    assert loaded.base is None
    img = random_crops(1, 192)
    with torch.no_grad():
        for got, want in zip(loaded(img), lite(img), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0.1)


def rewrite(path, target, **changes):
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    card = json.loads(str(arrays["card"])) | changes
    np.savez(target, **arrays | {"card": np.array(json.dumps(card))})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "open-3"}, "must have id 'open-2', got 'open-3'"),
        ({"weights_hash": "0" * 16}, "must hold the weights 0000000000000000, got"),
        ({"head": {"width": 16}}, "does not describe its network"),
        ({"rig": {"points": 10**9}}, "does not describe its network"),
        ({"head": {n: -1 for n in HEAD}}, "does not describe its network"),
        ({"trunk": "heavy"}, "does not describe its network"),
        ({"published_trunk": "0" * 16}, "needs a trunk with the weights 0000000000000000"),
        ({"published_base": "0" * 16}, "needs a base with the weights 0000000000000000"),
        ({"published_base": None}, "does not describe its network"),
        ({"base": {"trunk": "full", "width": 16}}, "does not describe its network"),
        ({"base": "open-1"}, "does not describe its network"),
        ({"format": "eft_fast-open-regressor-9"}, "must have format"),
    ],
)
def test_damaged_files_are_refused(tmp_path, changes, message):
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    save(network(), good)
    rewrite(good, bad, **changes)
    with pytest.raises(ValueError, match=message):
        load_regressor(bad)


def test_size_of_the_full_head():
    rig = KeypointRig(dict(points=17, rows=48, terms=39, joints=1, sources=17))
    regressor = MoveNetRegressor(MoveNet("thunder"), rig, OpenRegressor(BlazePose("full")))
    assert sum(p.numel() for p in regressor.head_parameters()) == 3_353_939


@pytest.mark.parametrize("mode", ["full", "layer3", "layer4", "head", "lora"])
def test_it_can_be_fine_tuned_in_every_mode_that_it_has(mode):
    """One by one and in slots, to the same fit; a mode that it has not is refused."""
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 255, (90, 80, 3), dtype=np.uint8) for _ in range(2)]
    keypoints = np.ones((2, 17, 3), np.float32)
    keypoints[..., :2] = rng.uniform(10, 70, (2, 17, 2))
    config = EftConfig(max_steps=6, lr=3e-4, tie=None)
    options = {"regressor": network(), "method": "eft", "config": config, "progress": False}
    result = fit_batch(photos, keypoints, mode=mode, **options)
    assert float(result.loss.mean()) < float(result.init_loss.mean())
    slots = fit_batch(photos, keypoints, mode=mode, slots=2, **options)
    torch.testing.assert_close(slots.pred_cam, result.pred_cam, rtol=1e-2, atol=1e-3)
    if mode == "head":
        with pytest.raises(ValueError, match="needs a regressor that can be cut at 'feature'"):
            fit_batch(photos, keypoints, mode="feature", **options)
