"""The file that fits beside the native fit: python -m benchmarks.fit_model DIR [--people N].

DIR is what ``eft-fast export --fit`` wrote of the package's regressor. Rendered people, the same
network, keypoints and sigmas for both; how far the fits are from each other, from torch's in double
precision as well, and processor time of one thread, the best of interleaved rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from eft_fast import imaging
from eft_fast.body import load_body
from eft_fast.keypoints import JOINT_SETS
from eft_fast.map_fit.config import SOLVER_ONLY, MapConfig
from eft_fast.map_fit.fit import MapFits, fit_map
from eft_fast.map_rules import ARM, limb_pairs
from eft_fast.models import load_regressor
from eft_fast.models.base import RegressorOutput
from eft_fast.models.error_covariance import load_error_covariance
from eft_fast.ops.map import MapState
from eft_fast.serving import open_session
from eft_fast.serving.fit_model import FitModel
from eft_fast.synth import SynthConfig, SynthJob, load_shards, render_shards

_SEED, _NOISE = 4242, 0.012
_PERCENT = (50, 90, 95, 99, 100)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", type=int, default=64)
    parser.add_argument("--motion", type=Path)
    parser.add_argument("--cache", type=Path, help="keep the pictures here, or take them from here")
    parser.add_argument("--save", type=Path, help="keep the inputs and the native fits")
    parser.add_argument("--case", action="append", help="only this one; time: only the time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options)
    bench.compare()
    if not options.case or "time" in options.case:
        bench.time()


class Bench:
    """People, the network and both forms of the fit."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.regressor = load_regressor()
        self.body = load_body("open")
        self.exact = load_body("open").double()
        self.precision = torch.from_numpy(load_error_covariance(self.regressor).precision())
        self.model = FitModel(options.folder, threads=1)
        if options.cache is None or not options.cache.is_file():
            people = self._render()
            if options.cache is not None:
                np.savez(options.cache, **people)
        else:
            people = dict(np.load(options.cache))
        self.images, self.truth = people["images"], people["truth"]
        with torch.no_grad():
            img = imaging.to_input(self.images, self.regressor.img_mean, self.regressor.img_std)
            parts = [self.regressor(torch.from_numpy(img[i : i + 1])) for i in range(len(img))]
        self.init = RegressorOutput(*(torch.cat(each) for each in zip(*parts, strict=True)))

    def _render(self) -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory() as scratch:
            job = SynthJob(
                out=Path(scratch),
                split="test",
                count=self.options.people,
                motion=self.options.motion,
                config=SynthConfig(size=self.regressor.input_size, seed=_SEED),
            )
            arrays = load_shards(render_shards(job))
        return {
            "images": arrays.image,
            "truth": arrays.landmarks_2d[:, :17].astype(np.float64),
        }

    def cases(self) -> dict[str, np.ndarray]:
        """Keypoints of everybody, by what is the matter with them."""
        draw = np.random.default_rng(0)
        size = np.sqrt(np.ptp(self.truth[..., :2], axis=1).prod(1))[:, None, None]
        seen = (self.truth[..., 2:] > 0) & (np.abs(self.truth[..., :2]) < 1).all(-1, keepdims=True)
        noisy = self.truth[..., :2] + _NOISE * size * draw.normal(size=self.truth[..., :2].shape)
        plain = np.concatenate([noisy, seen.astype(float)], -1)
        few, gross, arms, hidden, none = (plain.copy() for _ in range(5))
        order = draw.random(few.shape[:2]).argsort(1)
        few[order > 3, 2] = 0.0
        far = draw.random(gross.shape[:2]) < 0.1
        gross[far, :2] = draw.uniform(-0.9, 0.9, (int(far.sum()), 2))
        for left, right in limb_pairs(JOINT_SETS["coco17"].names, ARM):
            arms[:, [left, right]] = arms[:, [right, left]]
        hidden[draw.random(hidden.shape[:2]) < 0.3, 2] = 0.0
        unsure = plain.copy()
        unsure[..., 2] *= draw.choice([0.3, 1.0], unsure.shape[:2])
        none[..., 2] = 0.0
        return {
            "1.2 % noise": plain,
            "a third missing": hidden,
            "half unsure": unsure,
            "four keypoints": few,
            "10 % gross": gross,
            "arms exchanged": arms,
            "none": none[:8],
        }

    def native(
        self, keypoints: np.ndarray, *, wide: bool = False, config: MapConfig | None = None
    ) -> MapFits:
        """Fits of torch, in single precision by the native operator, or in double."""
        kind = torch.float64 if wide else torch.float32
        init = RegressorOutput(*(part[: len(keypoints)].to(kind) for part in self.init))
        body = self.exact if wide else self.body
        given = torch.from_numpy(keypoints).to(kind)
        return fit_map(body, init, given, self.precision.to(kind), config=config)

    def fit(self, keypoints: np.ndarray, batch: int = 4) -> dict[str, np.ndarray]:
        """Fits of the file."""
        sigma = np.where(keypoints[..., 2] > 0.55, 0.015, 0.045)
        pieces = [
            self.model.run(self.images[rows], keypoints[rows], sigma[rows])
            for rows in (slice(i, i + batch) for i in range(0, len(keypoints), batch))
        ]
        pieces = [
            {name: value[: len(keypoints) - i * batch] for name, value in piece.items()}
            for i, piece in enumerate(pieces)
        ]
        return {name: np.concatenate([each[name] for each in pieces]) for name in pieces[0]}

    def compare(self) -> None:
        """Print how far the fits are from each other."""
        print(f"{'':16s} people hard | differences at {_PERCENT} % of people")
        for name, keypoints in self.cases().items():
            if self.options.case and name not in self.options.case:
                continue
            plain = self.native(keypoints, config=SOLVER_ONLY)
            hard = plain.problem.tension(plain.energy) > MapConfig().hard_above
            want, exact = self.native(keypoints), self.native(keypoints, wide=True)
            got = self.fit(keypoints)
            if self.options.save:
                path = self.options.save.with_name(f"{self.options.save.stem}-{name}.npz")
                np.savez(path, keypoints=keypoints, images=self.images[: len(keypoints)], **got)
            theirs = self._said(want)
            pairs = {"file - native": (self._gotten(got), theirs),
                     "native - double": (theirs, self._said(exact)),
                     "file - double": (self._gotten(got), self._said(exact))}  # fmt: skip
            for label, (one, other) in pairs.items():
                px = 128 * np.linalg.norm(one[1] - other[1], axis=-1)
                pa = 1000 * pa_distance(one[0], other[0])
                mean = 1000 * np.linalg.norm(one[0] - other[0], axis=-1).mean(1)
                close = (px.max(1) < 0.5) & (pa < 1)
                print(f"{name:16s} {len(keypoints):4d} {int(hard.sum()):4d} | {label:15s} "
                      f"px {_row(px.max(1))}  PA mm {_row(pa)}  joints mm {_row(mean)}  "
                      f"within: {close.mean():.3f}")  # fmt: skip
            taken = np.stack([want.turned, want.flipped, want.swapped_arms], 1)
            same = (taken == (got["hypothesis"] > 0)).all(1).mean()
            sigma = np.abs(got["joint_sigma_mm"] - want.joint_sigma_mm.numpy())[:, 1:]
            print(f"{'':27s} | same hypotheses {same:.3f} (taken by {int(taken.any(1).sum())}), "
                  f"robust {int((want.weight_factor < 0.999).any(1).sum())}, "
                  f"joint_sigma mm {_row(sigma.max(1))}", flush=True)  # fmt: skip

    def _said(self, fits: MapFits) -> tuple[np.ndarray, np.ndarray]:
        state = MapState(*fits.final)
        return self._joints(*fits.final[:2]), fits.problem.project(state).double().numpy()

    def _gotten(self, got: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        pose = (torch.from_numpy(got[name]) for name in ("rotmat", "betas"))
        return self._joints(*pose), got["keypoints_2d"].astype(np.float64)

    def _joints(self, rotmat: torch.Tensor, betas: torch.Tensor) -> np.ndarray:
        rotmat, betas = rotmat.double(), betas.double()
        joints = self.exact.keypoints(
            betas, rotmat[:, 1:], rotmat[:, :1], joint_set="smpl24", pose2rot=False
        ).numpy()
        return joints - joints[:, :1]

    def time(self) -> None:
        """Print milliseconds a person."""
        keypoints = self.cases()["1.2 % noise"]
        plain = self.native(keypoints, config=SOLVER_ONLY)
        tension = plain.problem.tension(plain.energy)
        hard = (tension > MapConfig().hard_above).numpy()
        network = open_session(self.options.folder, provider="cpu", threads=1)
        sigma = np.full(keypoints.shape[:2], 0.015)
        for label, rows in (("not hard", ~hard), ("hard", hard)):
            some = np.flatnonzero(rows)[:8]
            if not len(some):
                continue
            for batch in (1, 4):
                pieces = [some[i : i + batch] for i in range(0, len(some), batch)]
                calls: dict[str, Callable[[np.ndarray], object]] = {
                    "network alone": lambda rows: network.run(self.images[rows]),
                    "file that fits": lambda rows: self.model.run(
                        self.images[rows], keypoints[rows], sigma[rows]
                    ),
                    "native fit alone": lambda rows: fit_map(
                        self.body,
                        RegressorOutput(*(part[rows] for part in self.init)),
                        torch.from_numpy(keypoints[rows]).float(),
                        self.precision.float(),
                    ),
                }
                best = dict.fromkeys(calls, float("inf"))
                for _ in range(4):
                    for name, call in calls.items():
                        begin = time.process_time()
                        for piece in pieces:
                            call(piece)
                        best[name] = min(best[name], time.process_time() - begin)
                listed = ", ".join(
                    f"{name} {1000 * value / len(some):.1f}" for name, value in best.items()
                )
                print(f"{label:9s} {len(some)} people, {batch} at once, ms a person: {listed}")


def pa_distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mean distance of joints after the similarity that brings them closest."""
    one, other = (each - each.mean(1, keepdims=True) for each in (one, other))
    u, s, vt = np.linalg.svd(one.swapaxes(1, 2) @ other)
    sign = np.sign(np.linalg.det(u @ vt))
    u[..., -1] *= sign[:, None]
    s[..., -1] *= sign
    scale = s.sum(1) / (one**2).sum((1, 2))
    moved = scale[:, None, None] * (one @ (u @ vt))
    return np.linalg.norm(moved - other, axis=-1).mean(1)


def _row(values: np.ndarray) -> str:
    return " / ".join(f"{value:.2g}" for value in np.percentile(values, _PERCENT))


if __name__ == "__main__":
    main()
