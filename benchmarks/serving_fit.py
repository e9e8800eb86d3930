"""The fit in numpy beside the native one, in one run: python -m benchmarks.serving_fit.

People lie about answers of a made-up network as its errors say, with 1.2 % noise and the assumed
pinhole; processor time of one thread, the regressor excluded, the best of interleaved rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from eft_fast.body import load_body
from eft_fast.deploy.fit_data import make_fit_asset
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_fit.fit import fit_map
from eft_fast.models.base import RegressorOutput
from eft_fast.models.error_covariance import OPEN_COVARIANCE_PATH, read_error_covariance
from eft_fast.serving.fitting.energy import State
from eft_fast.serving.fitting.fit import fit_people
from tests.map_fit.people import make_people

ROUNDS = 5
SIZES = (1, 64)
PLAIN = MapConfig(hypotheses=False, swaps=False, robust=False)


def measure() -> None:
    """Print milliseconds a person and the ratio, over 64 people, alone and together."""
    torch.set_num_threads(1)
    body = load_body("open")
    asset = make_fit_asset(body, read_error_covariance(OPEN_COVARIANCE_PATH))
    people = make_people(body, 64, noise=0.012)
    precision = torch.from_numpy(asset.precision).float()
    keypoints = people.keypoints.double().numpy()
    init = State(*(part.double().numpy() for part in people.init))
    tension = fit_people(asset, init, keypoints, config=PLAIN).tension
    hard = tension > PLAIN.hard_above
    groups = {
        "no hypotheses": (PLAIN, np.arange(64)),
        "not hard": (MapConfig(), np.flatnonzero(~hard)),
        "hard": (MapConfig(), np.flatnonzero(hard)),
        "all": (MapConfig(), np.arange(64)),
    }
    print(f"{int(hard.sum())} of 64 are hard")
    for name, (config, rows) in groups.items():
        for size in SIZES:
            pieces = [rows[at : at + size] for at in range(0, len(rows), size)][:16]
            count = sum(map(len, pieces))

            def ours(pieces=pieces, config=config) -> None:
                for piece in pieces:
                    fit_people(asset, init.take(piece), keypoints[piece], config=config)

            def native(pieces=pieces, config=config) -> None:
                for piece in pieces:
                    some = RegressorOutput(*(part[piece] for part in people.init))
                    fit_map(body, some, people.keypoints[piece], precision, config=config)

            ms = [1000 * seconds / count for seconds in best_of(ours, native)]
            print(f"{name:14s} {size:3d} at once: numpy {ms[0]:6.2f} ms a person, native "
                  f"{ms[1]:6.2f} ms, ratio {ms[0] / ms[1]:.1f}")  # fmt: skip


def best_of(*calls: Callable[[], None]) -> list[float]:
    """The least processor time of each, in interleaved rounds."""
    best = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for number, call in enumerate(calls):
            begin = time.process_time()
            call()
            best[number] = min(best[number], time.process_time() - begin)
    return best


if __name__ == "__main__":
    measure()
