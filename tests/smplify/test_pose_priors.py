"""The open pose prior as shipped, and loading of the user's own mixtures."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
import torch

from eft_fast.losses import priors
from eft_fast.smplify.prior import OPEN_PRIOR_PATH, load_pose_prior


@pytest.fixture(scope="module")
def prior():
    return load_pose_prior()


@pytest.fixture(scope="module")
def arrays():
    with np.load(OPEN_PRIOR_PATH, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def test_layout(prior, arrays):
    assert prior.id == "open"
    assert arrays["means"].shape == (8, 63)
    assert arrays["covars"].shape == (8, 63, 63)
    assert float(prior.mixture.weights.sum()) == pytest.approx(1.0)
    assert prior.mixture.means.dtype == torch.float64
    assert OPEN_PRIOR_PATH.stat().st_size < 150_000


def test_the_card_names_the_content(arrays):
    digest = hashlib.sha256(
        b"".join(np.ascontiguousarray(arrays[key]).tobytes() for key in sorted(arrays))
    ).hexdigest()
    card = OPEN_PRIOR_PATH.with_suffix(".md").read_text(encoding="utf-8")
    assert digest in card
    assert "mocap.cs.cmu.edu" in card
    assert "EIA-0196217" in card


def test_the_mean_pose_stands(prior):
    """Knees and elbows bend the right way, and nothing else is far from rest."""
    mean = prior.mixture.mean_pose().reshape(23, 3)
    assert mean[3, 0] > 0.1  # left knee
    assert mean[4, 0] > 0.1
    assert mean[17, 1] < -0.2  # left elbow
    assert mean[18, 1] > 0.2
    assert not mean[21:].any()
    assert mean.abs().max() < 1.5


def test_left_and_right_are_alike(prior):
    """The data was mirrored; the mean of the mixture is the data's, so it is its own mirror."""
    mean = prior.mixture.mean_pose().reshape(23, 3)
    flipped = torch.tensor([1.0, -1.0, -1.0])
    for left, right in ((0, 1), (3, 4), (6, 7), (15, 16), (17, 18)):
        torch.testing.assert_close(mean[left], (mean[right] * flipped).double(), rtol=0, atol=1e-3)


def test_usual_poses_are_likelier_than_noise_and_bent_knees(prior):
    mixture = prior.mixture
    generator = torch.Generator().manual_seed(0)
    means = torch.zeros(8, 69, dtype=torch.float64)
    means[:, :63] = mixture.means
    noise = 0.5 * torch.randn(64, 69, generator=generator, dtype=torch.float64)
    usual = priors.mixture_loss(mixture, means)
    assert priors.mixture_loss(mixture, noise).median() > usual.median() + 500
    backwards = means.clone()
    backwards[:, 9] = -1.0
    assert (priors.mixture_loss(mixture, backwards) > usual + 20).all()
    assert (priors.limits_loss(prior.limits, backwards) > 100).all()
    assert (priors.limits_loss(prior.limits, means) < 0.1).all()


def test_held_out_motion_is_as_likely_as_the_card_says(prior, shared_dir):
    from eft_fast.synth.motion import load_motion

    pool = load_motion(shared_dir / "data" / "cmu_mocap_smpl24", "test")
    pose = torch.from_numpy(pool.full_pose[::7, 1:].reshape(-1, 69)).double()
    assert priors.mixture_loss(prior.mixture, pose).median() < 110
    assert priors.limits_exceeded(prior.limits, pose).mean() < 0.005


def test_a_pickled_mixture_of_69_numbers(tmp_path):
    """The layout of gmm_08.pkl: read without running it, in float64."""
    rng = np.random.default_rng(0)
    content = {
        "means": rng.normal(size=(8, 69)),
        "covars": np.stack([np.eye(69) * (1 + j) for j in range(8)]),
        "weights": np.full(8, 1 / 8),
    }
    path = tmp_path / "gmm_08.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    loaded = load_pose_prior(path)
    assert loaded.id == "gmm_08.pkl"
    assert loaded.mixture.dims == 69
    pose = torch.from_numpy(content["means"][:1])
    expected = np.log(8) + 69 / 2 * np.log(2 * np.pi)
    assert float(priors.mixture_loss(loaded.mixture, pose)) == pytest.approx(expected)
    # The file has no limits, so those of the open prior are used.
    assert torch.equal(loaded.limits.upper, load_pose_prior().limits.upper)


def test_an_npz_of_ones_own(tmp_path, arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **{key: arrays[key][:3] for key in ("means", "covars", "weights")})
    loaded = load_pose_prior(path)
    assert loaded.mixture.means.shape == (3, 63)
    assert float(loaded.mixture.weights.sum()) == pytest.approx(1.0)


class Nasty:
    def __reduce__(self):
        return print, ("run",)


def test_wrong_files_are_refused(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="no file"):
        load_pose_prior(tmp_path / "gmm_08.pkl")
    nasty = tmp_path / "nasty.pkl"
    nasty.write_bytes(pickle.dumps({"means": Nasty()}))
    with pytest.raises(ValueError, match=r"asks for builtins\.print"):
        load_pose_prior(nasty)
    assert capsys.readouterr().out == ""
    partial = tmp_path / "partial.npz"
    np.savez(partial, means=np.zeros((8, 63)))
    with pytest.raises(ValueError, match="got no covars"):
        load_pose_prior(partial)
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ValueError, match="damaged"):
        load_pose_prior(damaged)
    words = tmp_path / "words.pkl"
    words.write_bytes(pickle.dumps({"means": "words", "covars": 1, "weights": 2}))
    with pytest.raises(ValueError, match="load_pose_prior"):
        load_pose_prior(words)
