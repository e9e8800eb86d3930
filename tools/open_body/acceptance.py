"""Figures of a run, each with the range that is accepted, and the check that they hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .decimate import Topology
from .landmarks import PICK_IDS
from .population import DENSITY, NUM_TRAIN, Population, signed_volume
from .rig import JOINT_NAMES
from .shape_space import PosedPeople, ShapeSpace, project
from .source import Floats

# A run may be this much worse than the first prototype.
SLACK = 1.1
# Metres on the template; right-hand places are reflections. Where the picks and the joints belong.
PICK_PLACES = {
    "nose": (0, 0.418, 0.155),
    "left_eye": (0.029, 0.461, 0.129),
    "left_ear": (0.074, 0.433, 0.046),
    "left_big_toe": (0.139, -1.107, 0.172),
    "left_small_toe": (0.205, -1.110, 0.121),
    "left_heel": (0.122, -1.099, -0.086),
    "left_thumb": (0.764, 0.187, 0.083),
    "left_index": (0.840, 0.214, 0.049),
    "left_middle": (0.854, 0.216, 0.006),
    "left_ring": (0.842, 0.218, -0.025),
    "left_little": (0.806, 0.219, -0.051),
}
JOINT_PLACES = {
    "pelvis": (0, -0.220, 0),
    "left_hip": (0.087, -0.268, -0.001),
    "spine1": (0, -0.071, -0.024),
    "left_knee": (0.136, -0.615, -0.006),
    "spine2": (0, 0.029, -0.028),
    "left_ankle": (0.131, -1.046, -0.032),
    "spine3": (0, 0.073, -0.032),
    "left_foot": (0.150, -1.094, 0.112),
    "neck": (0, 0.320, 0),
    "left_collar": (0.088, 0.239, -0.005),
    "head": (0, 0.405, 0.024),
    "left_shoulder": (0.176, 0.250, 0.009),
    "left_elbow": (0.434, 0.243, 0.004),
    "left_wrist": (0.665, 0.242, 0.003),
    "left_hand": (0.770, 0.247, 0.010),
}
# Number of directions: mean and 95th percentile of the held-out distance, mm.
HELD_OUT = {
    5: (5.06, 11.7),
    10: (2.64, 6.75),
    16: (1.40, 3.69),
    20: (0.93, 2.47),
    32: (0.31, 0.92),
}


@dataclass(frozen=True)
class Figure:
    """One number of a run and the range in which it is accepted."""

    name: str
    value: float
    low: float
    high: float

    @property
    def is_accepted(self) -> bool:
        """Whether the value lies in the range."""
        return self.low <= self.value <= self.high


def at_most(name: str, value: float, prototype: float) -> Figure:
    """Return a figure that may exceed the prototype's by a tenth."""
    return Figure(name, float(value), 0.0, prototype * SLACK)


def close_to(name: str, value: float, wanted: float, tolerance: float) -> Figure:
    """Return a figure that must lie within a tolerance of a value."""
    return Figure(name, float(value), wanted - tolerance, wanted + tolerance)


def check(figures: list[Figure]) -> None:
    """Raise RuntimeError, naming every figure outside its range."""
    wrong = [f"{f.name} {f.value:.4g}" for f in figures if not f.is_accepted]
    if wrong:
        raise RuntimeError(f"build_open_body: figures out of range: {', '.join(wrong)}")


def mesh_figures(topology: Topology, mean: Floats, error: Floats) -> list[Figure]:
    """Return counts, closedness, symmetry and the distance to the full mesh ``error`` in metres."""
    faces, mirror = topology.faces, topology.mirror
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, uses = np.unique(np.sort(edges, 1), axis=0, return_counts=True)
    asymmetry = np.abs(mean[mirror] * [-1, 1, 1] - mean).max()
    millimetres = error * 1e3
    return [
        close_to("vertices", len(mean), 6890, 0),
        close_to("faces", len(faces), 13768, 0),
        close_to("edges without exactly two faces", (uses != 2).sum(), 0, 0),
        close_to(
            "vertices whose mirror's mirror is another",
            (mirror[mirror] != np.arange(len(mean))).sum(),
            0,
            0,
        ),
        Figure("asymmetry of the template, m", float(asymmetry), 0, 1e-12),
        # 0.15 mm in the prototype, to the nearest plane; a distance to the surface is larger.
        at_most("distance of the full mesh to the reduced one, mean mm", millimetres.mean(), 0.165),
        at_most("the same, 95th percentile", np.percentile(millimetres, 95), 0.73),
        at_most("the same, 99th percentile", np.percentile(millimetres, 99), 1.67),
        at_most("the same, largest", millimetres.max(), 4.55),
        close_to(
            "mean edge, mm",
            1e3 * np.linalg.norm(mean[edges[:, 0]] - mean[edges[:, 1]], axis=1).mean(),
            17.7,
            1.0,
        ),
    ]


def people_figures(people: Population, posed: PosedPeople, topology: Topology) -> list[Figure]:
    """Return stature, BMI and volume of the population, in the file's own pose."""
    bodies = posed.source_vertices
    stature = np.ptp(bodies[:, :, 1], axis=1)
    volume = signed_volume(bodies, topology.faces)
    bmi = volume * DENSITY / stature**2
    figures = []
    for sex, chosen, size, mass in (
        ("men", people.is_male, (1.758, 0.073), (24.5, 4.4)),
        ("women", ~people.is_male, (1.621, 0.071), (21.7, 4.2)),
    ):
        figures += [
            close_to(f"stature of {sex}, mean m", stature[chosen].mean(), size[0], 0.01),
            close_to(f"stature of {sex}, deviation m", stature[chosen].std(), size[1], 0.007),
            close_to(f"BMI of {sex}, mean", bmi[chosen].mean(), mass[0], 0.5),
            close_to(f"BMI of {sex}, deviation", bmi[chosen].std(), mass[1], 0.44),
        ]
    return [
        *figures,
        close_to("volume, mean l", 1e3 * volume.mean(), 65.8, 1.5),
        close_to("volume, deviation l", 1e3 * volume.std(), 16.0, 1.6),
    ]


def shape_figures(space: ShapeSpace, posed: PosedPeople, topology: Topology) -> list[Figure]:
    """Return the template's size and how well few directions reproduce people not trained on."""
    rest = posed.vertices[NUM_TRAIN:]
    volume = signed_volume(space.mean, topology.faces)
    flat = (rest - space.mean).reshape(len(rest), -1)
    figures = [
        close_to("stature of the template, m", np.ptp(space.mean[:, 1]), 1.691, 0.005),
        close_to("span of the template, m", np.ptp(space.mean[:, 0]), 1.707, 0.005),
        close_to("volume of the template, l", 1e3 * float(volume), 65.3, 0.65),
    ]
    for count, (mean, p95) in HELD_OUT.items():
        basis = space.basis[:count]
        missing = (flat - (flat @ basis.T) @ basis).reshape(rest.shape)
        distance = 1e3 * np.linalg.norm(missing, axis=2)
        figures += [
            at_most(f"held-out people with {count} betas, mean mm", distance.mean(), mean),
            at_most(
                f"held-out people with {count} betas, 95th percentile mm",
                np.percentile(distance, 95),
                p95,
            ),
        ]
    variance = space.deviation**2
    betas = project(space, posed.vertices[:NUM_TRAIN])
    return [
        *figures,
        close_to(
            "variance explained by 10 betas, %",
            100 * variance[:10].sum() / variance.sum(),
            99.46,
            0.3,
        ),
        close_to("deviation of the training betas", betas.std(), 1.0, 0.02),
        Figure("largest training beta", float(np.abs(betas).max()), 3.0, 4.8),
    ]


def joint_figures(
    rows: Floats, weights: Floats, space: ShapeSpace, posed: PosedPeople
) -> list[Figure]:
    """Return how well the joint regressor finds the rig's joints of people not trained on."""
    rest, wanted = posed.vertices[NUM_TRAIN:], posed.joints[NUM_TRAIN:]
    error = 1e3 * np.linalg.norm(rows @ rest - wanted, axis=2)
    rebuilt = space.mean + np.tensordot(project(space, rest), space.directions, 1)
    after = 1e3 * np.linalg.norm(rows @ rebuilt - wanted, axis=2)
    each = ", ".join(
        f"{n} {e:.1f}" for n, e in zip(JOINT_NAMES, error.mean(0), strict=True) if e > 5
    )
    return [
        at_most("joint regressor, held-out mean mm", error.mean(), 4.21),
        at_most("joint regressor, held-out largest mm", error.max(), 46.8),
        at_most(f"joint regressor, worst joint's mean mm ({each})", error.mean(0).max(), 11.6),
        at_most("joint regressor after projection to 10 betas, mean mm", after.mean(), 4.42),
        at_most(
            "joint regressor after projection to 10 betas, 95th percentile mm",
            np.percentile(after, 95),
            13.4,
        ),
        at_most("nonzeros of the joint regressor", (rows > 0).sum(), 570),
        at_most("joints per vertex, mean", (weights > 0).sum(1).mean(), 1.97),
    ]


def place_figures(mean: Floats, joints: Floats, landmarks: dict[str, int]) -> list[Figure]:
    """Return the distance of picks and joints to where they belong, left and right."""
    picks = [
        _distance(mean[landmarks[name]], PICK_PLACES[name.replace("right_", "left_")], name)
        for name in PICK_IDS
    ]
    rest = [
        _distance(joint, JOINT_PLACES[name.replace("right_", "left_")], name)
        for name, joint in zip(JOINT_NAMES, joints, strict=True)
    ]
    return [
        Figure("farthest of the 21 picked vertices from its place, mm", max(picks), 0, 5),
        Figure("farthest rest joint from its place, mm", max(rest), 0, 3),
    ]


def _distance(point: Floats, place: tuple[float, float, float], name: str) -> float:
    sign = -1 if name.startswith("right_") else 1
    return float(1e3 * np.linalg.norm(point - np.array(place) * [sign, 1, 1]))
