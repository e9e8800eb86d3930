"""The head on MoveNet: people who were never rendered, given keypoints, and what it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eft_fast.body import Smpl
from eft_fast.geometry.cameras import weak_project
from eft_fast.models.keypoint_rig import KeypointRig
from eft_fast.models.movenet_regressor import MoveNetRegressor
from eft_fast.smplify.prior import load_pose_prior
from eft_fast.synth import PosePool, SynthArrays, SynthConfig
from eft_fast.synth.config import PoseConfig
from eft_fast.training import simulated_people
from eft_fast.training.cache import normalise_images
from eft_fast.training.given_keypoints import TrunkErrors, give_keypoints
from eft_fast.training.movenet_cache import (
    cache_evidence,
    cache_path,
    is_mirrored,
    load_evidence,
)
from eft_fast.training.movenet_head import (
    HeadData,
    LiftConfig,
    RenderedPeople,
    set_mean_pose,
    train_head,
)
from eft_fast.training.movenet_training import HeadScore, observe
from eft_fast.training.simulated_people import Dice, PeopleSimulator
from eft_fast.training.skeletons import Skeletons
from eft_fast.training.targets import Targets
from tests.synth.test_poses import knee_bends

TINY = {"width": 32, "blocks": 1, "refine_blocks": 1}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def simulator(open_body: Smpl, pool: PosePool) -> PeopleSimulator:
    simulated_people._POSTURES, kept = 50, simulated_people._POSTURES
    try:
        return PeopleSimulator(open_body, pool, replace(SynthConfig(), child=0.2))
    finally:
        simulated_people._POSTURES = kept


@pytest.fixture(scope="module")
def shards(arrays: SynthArrays, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The rendered people in pictures of the tiny network's size, two files of six."""
    folder, small = tmp_path_factory.mktemp("shards"), arrays.cropped(1.1 / 1.2, 64)
    paths = [folder / f"train-{number:05d}.npz" for number in range(2)]
    for number, path in enumerate(paths):
        rows = slice(6 * number, 6 * number + 6)
        np.savez(path, **{name: value[rows] for name, value in vars(small).items()})
    return paths


def make_network(body: Smpl) -> MoveNetRegressor:
    torch.manual_seed(0)
    tiny = MoveNetRegressor.make_tiny()
    rig = KeypointRig.from_plan(body.points_plan("coco17"))
    return MoveNetRegressor(tiny.trunk, rig, tiny.base, **TINY).eval()


@pytest.fixture(scope="module")
def seen_network(open_body: Smpl, shards: list[Path]) -> MoveNetRegressor:
    """With the evidence of all shards stored."""
    network = make_network(open_body)
    cache_evidence(network, shards, mirror=0.5)
    return network


@pytest.fixture
def data(
    seen_network: MoveNetRegressor,
    shards: list[Path],
    simulator: PeopleSimulator,
    targets: Targets,
    arrays: SynthArrays,
    tmp_path: Path,
) -> HeadData:
    evidence = load_evidence(shards, "tiny")
    seen = torch.from_numpy(arrays.landmarks_2d[:, :17, 2]).long()
    skeletons = Skeletons.load(write_skeletons(tmp_path / "coco.npz"), margin=1.1)
    people = RenderedPeople(evidence, targets, seen)
    return HeadData(people, simulator, skeletons, load_pose_prior())


def write_skeletons(path: Path) -> Path:
    """Ten people, of whom the last two are of the validation split and two have few labels."""
    rng = np.random.default_rng(0)
    points = rng.uniform(100, 300, (10, 17, 3))
    points[..., 2] = 2
    points[:2, 6:, 2] = 0
    boxes = np.tile([100.0, 100, 200, 150], (10, 1))
    np.savez(path, kp=points, bbox_xywh=boxes, val=np.arange(10) >= 8)
    return path


def test_simulated_people_fit_their_labels(simulator: PeopleSimulator, open_body: Smpl) -> None:
    targets, seen = simulator.draw(200, generator())
    again = simulator.draw(200, generator())
    assert torch.equal(targets.rotmat, again.targets.rotmat)
    assert not torch.equal(targets.rotmat, simulator.draw(200, generator(1)).targets.rotmat)
    turns = targets.rotmat @ targets.rotmat.mT
    torch.testing.assert_close(turns, torch.eye(3).expand_as(turns), rtol=0, atol=1e-4)
    # The weak camera, for points about the pelvis, lies near the perspective one.
    flat = weak_project(targets.landmarks, targets.camera)
    flat = flat - flat.mean(1, keepdim=True)
    true = targets.landmarks_2d - targets.landmarks_2d.mean(1, keepdim=True)
    assert ((flat - true).norm(dim=-1).mean(1) / targets.size[:, 0]).median() < 0.12
    # Whoever is outside of the crop cannot be seen; most can.
    outside = (targets.landmarks_2d[:, :17].abs() > 1).any(-1)
    assert (seen[outside] == 0).all()
    shares = [(seen == kind).float().mean().item() for kind in (2, 1, 0)]
    assert 0.6 < shares[0] < 0.9
    assert 0.05 < shares[1] < 0.35
    # Most are upright: heads above hips, y down.
    head, hips = targets.landmarks_2d[:, 0, 1], targets.landmarks_2d[:, 11:13, 1].mean(1)
    assert (head < hips).float().mean() > 0.85
    # Some are children.
    assert 0.05 < (targets.betas[:, 0] < -2.2).float().mean() < 0.4


def test_some_people_stand_straight(open_body: Smpl, pool: PosePool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated_people, "_POSTURES", 50)
        config = SynthConfig(pose=PoseConfig(standing=1.0, lying=0.0, any_roll=0.0))
        stands = PeopleSimulator(open_body, pool, config).draw(200, generator()).targets.rotmat
        pose = replace(config.pose, standing=0.0)
        moves = PeopleSimulator(open_body, pool, replace(config, pose=pose))
        moves = moves.draw(200, generator()).targets.rotmat

    straight, bent = (np.median(knee_bends(rotmat.numpy())) for rotmat in (stands, moves))
    assert straight < 8 < bent
    # Upright, seen by a camera that hardly leans: the body's up is the picture's up.
    assert stands[:, 0, 1, 1].median() < -0.9


def test_limbs_behind_the_body_are_hidden(simulator: PeopleSimulator) -> None:
    """A hand behind the trunk, as seen from the camera, and one before it."""
    joints = torch.zeros(1, 24, 3)
    joints[..., 2] = 3.0
    joints[:, 12, 1] = -0.5  # a trunk from the pelvis to the neck
    joints[:, [13, 14], 0] = torch.tensor([0.1, -0.1])
    keypoints = torch.zeros(1, 17, 3)
    keypoints[..., 1] = 5.0
    keypoints[0, 9] = torch.tensor([0.0, -0.25, 3.4])
    keypoints[0, 10] = torch.tensor([0.0, -0.25, 2.7])
    hidden = simulated_people._hide_behind_self(keypoints, joints, torch.tensor([3.0]))
    assert hidden[0, 9]
    assert not hidden[0, 10]


def test_given_keypoints_are_near_what_can_be_seen() -> None:
    points = torch.rand(2000, 17, 2, generator=generator()) * 2 - 1
    seen = torch.randint(3, (2000, 17), generator=generator(1))
    given = give_keypoints(points, seen, torch.full((2000,), 1.5), Dice(generator(2)))
    there = given[..., 2] > 0
    assert not there[seen == 0].any()
    assert (given[~there] == 0).all()
    assert there[seen == 2].float().mean() > 0.75
    assert 0.2 < there[seen == 1].float().mean() < 0.7
    error = (given[..., :2] - points).norm(dim=-1)
    assert error[there & (seen == 2)].median() < 0.05
    assert error[there & (seen == 1)].median() > error[there & (seen == 2)].median()
    assert (given[..., 2] <= 1).all()
    # Sure ones are visible ones.
    assert given[..., 2][there & (seen == 2)].mean() > 0.8
    assert given[..., 2][there & (seen == 1)].mean() < 0.7
    # Nobody of whom three can be seen is left with fewer.
    many = (seen > 0).sum(1) >= 3
    assert (there.sum(1)[many] >= 3).all()


def test_errors_of_the_networks_carry_over(data: HeadData) -> None:
    """A donor itself gets exactly what was said of it; without error, the truth is."""
    people = data.rendered
    errors = TrunkErrors(*people)
    true = people.targets.landmarks_2d[:, :17]
    found = errors.find(people.targets, people.seen, Dice(generator()))
    torch.testing.assert_close(found.points, people.evidence.points, rtol=0, atol=1e-4)
    for got, want in zip(found.base, people.evidence.base, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
    exact = people.evidence._replace(
        points=torch.cat([true, people.evidence.points[..., 2:]], -1),
        about=true,
        base=people.evidence.base._replace(
            rotmat=people.targets.rotmat, camera=people.targets.camera
        ),
    )
    others = people.targets.take(torch.arange(12).flip(0))
    found = TrunkErrors(exact, people.targets, people.seen).find(
        others, people.seen.flip(0), Dice(generator())
    )
    torch.testing.assert_close(found.points[..., :2], true.flip(0))
    torch.testing.assert_close(found.about, true.flip(0))
    torch.testing.assert_close(found.base.rotmat, others.rotmat, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.base.camera, others.camera)


def test_a_worse_base_is_one_that_erred_more(data: HeadData) -> None:
    people = data.rendered
    turned = people.evidence.base.rotmat.clone()
    turned[0] = people.targets.rotmat[0] @ torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    for row in range(1, 12):
        turned[row] = people.targets.rotmat[row]
    base = people.evidence.base._replace(rotmat=turned)
    evidence = people.evidence._replace(base=base)

    def errors_of(odds: float) -> torch.Tensor:
        errors = TrunkErrors(evidence, people.targets, people.seen, worse_base=odds)
        many = torch.arange(12).repeat(20)
        targets = people.targets.take(many)
        found = errors.find(targets, people.seen[many], Dice(generator()))
        return (found.base.rotmat - targets.rotmat).abs().amax((1, 2, 3)) > 0.1

    # One in twelve erred; the worst of six drawn is that one in 41 % of draws.
    assert errors_of(0.0).float().mean() < 0.12
    assert 0.3 < errors_of(1.0).float().mean() < 0.55


def test_what_is_said_of_labelled_people_is_near_their_labels(data: HeadData) -> None:
    """Their own donors say the same of them, wherever and however large they are."""
    people = data.rendered
    errors = TrunkErrors(*people)
    true = people.targets.landmarks_2d[:, :17]
    there = (people.seen == 2)[..., None].float()
    for zoom, shift in ((1.0, 0.0), (0.5, 0.3)):
        labels = torch.cat([(true * zoom + shift) * there, there], -1)
        found = errors.find_labelled(labels, Dice(generator()))
        assert found.base is None
        gap = ((found.points - labels)[..., :2].norm(dim=-1) * there[..., 0]).sum(1)
        own = ((people.evidence.points[..., :2] - true).norm(dim=-1) * there[..., 0]).sum(1)
        assert gap.median() < 2 * zoom * own.median()
        assert ((found.points[..., 2] > 0) & (found.points[..., 2] < 1)).all()


def test_skeletons_leave_out_who_must_not_be_learned_from(tmp_path: Path) -> None:
    skeletons = Skeletons.load(write_skeletons(tmp_path / "coco.npz"), margin=1.25)
    assert len(skeletons) == 6  # two of validation, two with six labels
    # The longer side of the box, 200 px, times the margin is 2.
    with np.load(tmp_path / "coco.npz") as file:
        expected = (file["kp"][2, :, :2] - [200, 175]) / (1.25 * 100)
    torch.testing.assert_close(
        skeletons.labels[0, :, :2], torch.from_numpy(expected.astype(np.float32))
    )
    given, labels = skeletons.draw(300, Dice(generator()))
    there = given[..., 2] > 0
    assert (labels[..., 2] == 1).all()
    assert 0.5 < there.float().mean() < 0.95
    assert (there.sum(1) >= 4).all()
    gap = (given[..., :2] - labels[..., :2]).norm(dim=-1)[there]
    assert gap.max() < 0.08
    assert gap.mean() > 0.005


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"kp": np.zeros((2, 17, 3))}, "must be an .npz with kp, bbox_xywh and val"),
        (
            {"kp": np.zeros((2, 16, 3)), "bbox_xywh": np.zeros((2, 4)), "val": np.zeros(2)},
            r"must hold kp \[N, 17, 3\] and bbox_xywh \[N, 4\], got \[2, 16, 3\]",
        ),
        (
            {"kp": np.zeros((2, 17, 3)), "bbox_xywh": np.ones((2, 4)), "val": np.zeros(2)},
            "got none that can be used",
        ),
    ],
)
def test_other_files_of_skeletons_are_refused(tmp_path: Path, arrays, message: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        Skeletons.load(tmp_path / "bad.npz", margin=1.1)
    with pytest.raises(FileNotFoundError, match="no file of skeletons"):
        Skeletons.load(tmp_path / "none.npz", margin=1.1)


def test_stored_evidence_is_the_networks_own(
    seen_network: MoveNetRegressor, shards: list[Path]
) -> None:
    evidence = load_evidence(shards, "tiny")
    flip = np.concatenate([is_mirrored(shard, 6, 0.5) for shard in shards])
    assert 0 < flip.sum() < 12
    assert np.array_equal(evidence.is_mirrored.numpy(), flip)
    images = np.concatenate([np.load(shard)["image"] for shard in shards])
    pictures = normalise_images(images, seen_network)
    pictures = torch.where(torch.from_numpy(flip)[:, None, None, None], pictures.flip(-1), pictures)
    with torch.no_grad():
        direct = seen_network.features(pictures)
    stored = evidence.take(torch.arange(12))
    for name, tolerance in (("points", 1e-5), ("about", 1e-4), ("spread", 1e-4)):
        torch.testing.assert_close(
            getattr(stored, name), getattr(direct, name), rtol=tolerance, atol=tolerance
        )
    for got, want in zip(stored.base, direct.base, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    before = cache_path(shards[0], "tiny").stat().st_mtime_ns
    cache_evidence(seen_network, shards)
    assert cache_path(shards[0], "tiny").stat().st_mtime_ns == before


def make_config(**changes: object) -> LiftConfig:
    return LiftConfig(**{"steps": 30, "batch": 40, "warmup": 5, "ema": 0.9} | TINY | changes)


def learn(
    body: Smpl, data: HeadData, state: Path | None = None, **changes: object
) -> tuple[MoveNetRegressor, list[float]]:
    network = make_network(body)
    set_mean_pose(network.head, data.rendered.targets.rotmat)
    losses = train_head(network.head, body, data, make_config(**changes), state=state, save_every=4)
    return network, losses


def test_the_head_learns_and_its_rig_stays(open_body: Smpl, data: HeadData) -> None:
    before = {k: v.clone() for k, v in make_network(open_body).head.state_dict().items()}
    # mean_pose is set from the people who are learned from.
    network, losses = learn(open_body, data, steps=40, lr=3e-3)
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])
    after = network.head.state_dict()
    for name, value in after.items():
        same = torch.equal(value, before[name])
        is_fixed = name.startswith(("certainty", "rig"))
        assert same == is_fixed, name
    assert not network.training


@pytest.mark.parametrize("changes", [{}, {"skeletons": 0.0, "simulated": 0.0, "given": 0.0}])
def test_a_stopped_run_ends_with_the_same_weights(
    open_body: Smpl, data: HeadData, tmp_path: Path, changes: dict[str, object]
) -> None:
    whole, losses = learn(open_body, data, steps=8, **changes)

    class StoppedError(Exception):
        pass

    calls = []

    def stop() -> None:
        calls.append(1)
        raise StoppedError

    network = make_network(open_body)
    set_mean_pose(network.head, data.rendered.targets.rotmat)
    state, config = tmp_path / "lift.pt", make_config(steps=8, **changes)
    with pytest.raises(StoppedError):
        train_head(network.head, open_body, data, config, state=state, save_every=4, on_save=stop)
    resumed, rest = learn(open_body, data, state=state, steps=8, **changes)
    assert rest == pytest.approx(losses[4:], rel=1e-4)
    for (name, one), other in zip(
        whole.head.state_dict().items(), resumed.head.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)


def test_scores_and_confidence_see_everybody_with_and_without_keypoints(
    open_body: Smpl, data: HeadData, seen_network: MoveNetRegressor
) -> None:
    score = HeadScore(data.rendered, open_body)(seen_network.head)
    assert 50 < score < 2000
    hidden, near = observe(seen_network, open_body, data.rendered, torch.arange(10))
    assert hidden.shape == (20, TINY["width"])
    assert near.shape == (20, 24)
    assert (near[:, 0] == 1).all()  # the pelvis is where it is
    assert not torch.equal(hidden[:10], hidden[10:])


def test_some_people_have_their_labels_alone(open_body: Smpl, data: HeadData) -> None:
    """Simulated ones, who then have given keypoints: nobody is left without anything."""
    network = make_network(open_body)
    shown = []
    network.head.register_forward_pre_hook(lambda head, inputs: shown.append(inputs))
    config = make_config(steps=1, batch=64, simulated=0.75, skeletons=0.0, drop_found=0.5)
    train_head(network.head, open_body, data, config)
    ((evidence, given),) = shown
    is_alone = (evidence.points == 0).flatten(1).all(1)
    assert not is_alone[:16].any()  # these were rendered
    assert 5 < is_alone[16:].sum() < 24
    assert (given[is_alone, :, 2] > 0).any(1).all()
    assert (evidence.about[is_alone] == 0).all()
    assert (evidence.spread[is_alone] == 0).all()
    assert (evidence.base.confidence[is_alone] == 0).all()


def test_shares_beyond_everybody_are_refused() -> None:
    with pytest.raises(ValueError, match="simulated and skeletons must be at most 1 together"):
        LiftConfig(simulated=0.8, skeletons=0.3)
