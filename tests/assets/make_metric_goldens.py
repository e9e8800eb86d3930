"""Print the expected values of tests/evaluation/test_metrics.py, written without the package.

Alignment is scipy's, so the numbers do not come from the code that they test.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

i, k = np.arange(14)[:, None], np.arange(3)[None]
P = np.sin(0.7 * i + 1.3 * k)
G = np.cos(0.5 * i + 0.9 * k) + 0.1 * i * np.array([1, 0, -1])


def mean_distance(p: np.ndarray, g: np.ndarray) -> float:
    return float(np.linalg.norm(p - g, axis=-1).mean())


def aligned_distance(p: np.ndarray, g: np.ndarray, scaled: bool = True) -> float:
    p, g = p - p.mean(0), g - g.mean(0)
    turned = Rotation.align_vectors(g, p)[0].apply(p)
    scale = (turned * g).sum() / (p * p).sum() if scaled else 1.0
    return mean_distance(scale * turned, g)


random = np.random.RandomState(0)
R0, R1 = random.randn(14, 3), random.randn(14, 3)
raw = np.linalg.norm(P - G, axis=-1)
wave = np.cos(0.3 * np.arange(6))[:, None, None]
bend = (P * wave - G * wave)[:-2] - 2 * (P * wave - G * wave)[1:-1] + (P * wave - G * wave)[2:]
print("mpjpe_raw", mean_distance(P, G))
print("mpjpe_root0", mean_distance(P - P[:1], G - G[:1]))
print("mpjpe_hipmid", mean_distance(P - P[2:4].mean(0), G - G[2:4].mean(0)))
print("pa", aligned_distance(P, G))
print("ra_noscale", aligned_distance(P, G, scaled=False))
print("pa_randn0", aligned_distance(R0, R1))
print("pa_true_reflection_randn0", aligned_distance(R0, R0 * [-1, 1, 1]))
print("pck_0.5_strict", float((raw < 0.5).mean()))
print("auc31", float(np.mean([(raw < t).mean() for t in np.linspace(0, 1.5, 31)])))
print("accel_err_frames", np.linalg.norm(bend, axis=-1).mean(-1).tolist())
