"""SMPLify as published against SMPLify here: ``python -m benchmarks.compare smplify [--json]``.

The peer is the usual way to write it: smplx for the mesh, the 49 points picked and regressed from
it, the max-mixture prior as a loop over eight Gaussians, torch.optim.Adam on separate tensors. It
runs on a few steps of each stage, and its time is scaled to 100 + 100; ours runs all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
import torch
from torch import Tensor

from benchmarks import peers
from eft_fast.geometry.cameras import to_cam_transl
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.models.base import RegressorOutput
from eft_fast.smplify.config import SmplifyConfig
from eft_fast.smplify.fit import fit_smplify, start_from
from eft_fast.smplify.prior import OPEN_PRIOR_PATH

FULL_STEPS = 100
TORSO, IGNORED = [9, 12, 2, 5], [1, 9, 12, 27, 28]


def make_people(count: int) -> tuple[RegressorOutput, Tensor]:
    """Starts near the mean pose and keypoints of other bodies, all 49 labelled."""
    generator = torch.Generator().manual_seed(count)
    pose = 0.2 * torch.randn(2, count, 72, generator=generator)
    pose[..., 0] += torch.pi
    betas = torch.randn(count, 10, generator=generator)
    points = peers.body().keypoints(betas, pose[1, :, 3:], pose[1, :, :3], joint_set="spin49")
    noise = 0.01 * torch.randn(count, 49, 2, generator=generator)
    confidence = 0.5 + 0.5 * torch.rand(count, 49, 1, generator=generator)
    target = torch.cat([0.8 * points[..., :2] + noise, confidence], -1)
    camera = torch.tensor([0.8, 0.0, 0.0]).expand(count, 3).clone()
    rotmat = axis_angle_to_matrix(pose[0].reshape(count, 24, 3))
    return RegressorOutput(rotmat, torch.zeros(count, 10), camera), target


class EagerSmplify:
    """The fitter of SPIN's training loop, written from its description on top of smplx."""

    def __init__(self) -> None:
        prior = np.load(OPEN_PRIOR_PATH)
        self.means = torch.from_numpy(prior["means"])
        covars = torch.from_numpy(prior["covars"]).double()
        self.precisions = torch.linalg.inv(covars).float()
        half = 0.5 * torch.logdet(covars)
        norm = 63 / 2 * np.log(2 * np.pi) + half - half.min()
        self.offsets = (norm - torch.from_numpy(prior["weights"]).double().log()).float()
        rows = peers.body().joint_points("spin49").rows
        self.points = peers.make_points("smplx", rows)

    def project(self, betas: Tensor, pose: Tensor, orient: Tensor, camera: Tensor) -> Tensor:
        full = torch.cat([orient, pose], 1).reshape(-1, 24, 3)
        moved = self.points(betas, full, torch.zeros_like(camera)) + camera[:, None]
        return 5000 * moved[..., :2] / moved[..., 2:] + 112

    def gmm(self, pose: Tensor) -> Tensor:
        values = []
        for mean, precision, offset in zip(self.means, self.precisions, self.offsets, strict=True):
            d = pose[:, :63] - mean
            values.append(0.5 * torch.einsum("bi,ij,bj->b", d, precision, d) + offset)
        return torch.stack(values, 1).min(1).values

    def fit(self, init: RegressorOutput, keypoints: Tensor, steps: int) -> Tensor:
        """Run both stages; returns the losses before the last update of the second."""
        x = start_from(init)
        orient, pose, betas = x[:, :3].clone(), x[:, 3:72].clone(), x[:, 72:82].clone()
        camera = to_cam_transl(x[:, 82:])
        target, confidence = 112 * (keypoints[..., :2] + 1), keypoints[..., 2].clone()
        confidence[:, IGNORED] = 0
        depth = camera[:, 2].clone()
        orient.requires_grad_()
        camera.requires_grad_()
        optimiser = torch.optim.Adam([orient, camera], lr=1e-2, betas=(0.9, 0.999))
        for _ in range(steps):
            image = self.project(betas, pose, orient, camera)
            torso = (image - target)[:, TORSO].square().sum((1, 2))
            loss = (torso + 1e4 * (camera[:, 2] - depth).square()).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        camera = camera.detach()
        pose.requires_grad_()
        betas.requires_grad_()
        optimiser = torch.optim.Adam([pose, betas, orient], lr=1e-2, betas=(0.9, 0.999))
        for _ in range(steps):
            error = self.project(betas, pose, orient, camera) - target
            rho = (1e4 * error.square() / (1e4 + error.square())).sum(-1)
            data = (confidence.square() * rho).sum(1)
            signs = pose.new_tensor([1.0, -1.0, -1.0, -1.0])
            bend = torch.exp(signs * pose[:, [52, 55, 9, 12]]).square().sum(1)
            prior = 4.78**2 * self.gmm(pose) + 15.2**2 * bend + 25 * betas.square().sum(1)
            losses = data + prior
            optimiser.zero_grad()
            losses.sum().backward()
            optimiser.step()
        return losses.detach()


def check_equal(eager: EagerSmplify, count: int = 8, steps: int = 5) -> None:
    """Both must see the same losses; nothing wrong is ever timed."""
    init, keypoints = make_people(count)
    seen: list[Tensor] = []
    config = SmplifyConfig(max_steps=steps)
    fit_smplify(
        peers.body(), init, keypoints, config=config, on_step=lambda _, __, loss: seen.append(loss)
    )
    error = float((seen[-1] / eager.fit(init, keypoints, steps) - 1).abs().max())
    if not error < 1e-3:
        raise AssertionError(f"smplify: ours and smplx must agree to 1e-3, got {error:.2e}")


def _clocks() -> np.ndarray:
    """Wall and processor seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def measure(people: int, rounds: int, steps: int) -> dict[str, float | int]:
    """Fits per second of both from interleaved rounds, medians.

    Per second of the wall, and per second of processor time, all threads together: the second is
    the same on a busy machine, where others take part of the first.
    """
    eager = EagerSmplify()
    check_equal(eager)
    init, keypoints = make_people(people)
    config = SmplifyConfig()
    ours, theirs = [], []
    for _ in range(rounds + 1):
        start = _clocks()
        fit_smplify(peers.body(), init, keypoints, config=config)
        middle = _clocks()
        eager.fit(init, keypoints, steps)
        ours.append(middle - start)
        theirs.append((_clocks() - middle) * FULL_STEPS / steps)
    (mine, mine_cpu), (peer, peer_cpu) = (
        np.median(np.stack(times[1:]), axis=0).tolist() for times in (ours, theirs)
    )
    return {
        "fits_per_second": people / mine,
        "peer_fits_per_second": people / peer,
        "ratio": peer / mine,
        "fits_per_cpu_second": people / mine_cpu,
        "peer_fits_per_cpu_second": people / peer_cpu,
        "cpu_ratio": peer_cpu / mine_cpu,
        "people": people,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "peer_steps": steps,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare smplify")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256], help="people")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="of the peer in each stage")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--json", action="store_true", help="one line on stdout")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if "smplx" not in peers.installed():
        print("compare: install a peer first: pip install '.[bench]'", file=sys.stderr)
        return 2
    rows = [measure(size, options.rounds, options.steps) for size in options.sizes]
    for row in rows:
        print(
            f"smplify_spin, {row['people']} people, {row['threads']} threads: "
            f"{row['fits_per_second']:.0f} fits/s, eager smplx {row['peer_fits_per_second']:.2f}, "
            f"ratio {row['ratio']:.0f}; per CPU second {row['fits_per_cpu_second']:.0f} and "
            f"{row['peer_fits_per_cpu_second']:.2f}, ratio {row['cpu_ratio']:.0f}",
            file=sys.stderr,
        )
    if options.json:
        print(json.dumps({**rows[-1], "rows": rows}))
    return 0
