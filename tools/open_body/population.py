"""Blend weights of the shape targets, and the adults that the shape space is learned from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .source import Floats, Source

NUM_PEOPLE = 500
NUM_TRAIN = 400
# kg/m^3; BMI is volume times this over stature squared.
DENSITY = 1010.0

_RACES = ("african", "asian", "caucasian")
_AGE_NODES = {"newborn": -1 / 3, "baby": 0.0, "child": 1 / 3, "young": 2 / 3, "old": 1.0}
_GRADES = {"min": 0.0, "average": 0.5, "max": 1.0}


@dataclass(frozen=True)
class Population:
    """Parameters of each person, all [N], and the blend weights [N, K] that follow from them."""

    parameters: dict[str, Floats]
    weights: Floats
    is_male: np.ndarray


def target_weights(tokens: tuple[tuple[str, ...], ...], parameters: dict[str, Floats]) -> Floats:
    """Return the weight of every target for every person: the product of its tokens' hats.

    Args:
        tokens: Condition of each target.
        parameters: ``gender`` (0 male, 1 female), ``age``, ``muscle``, ``weight``, ``height``,
            ``proportions``, ``cup``, ``firmness`` and one share per race, each [N].

    Returns:
        Weights [N, K].
    """
    columns = _token_columns(parameters)
    people = len(parameters["gender"])
    return np.stack(
        [
            np.prod([np.ones(people)] + [columns[t] for t in condition], axis=0)
            for condition in tokens
        ],
        axis=1,
    )


def _token_columns(parameters: dict[str, Floats]) -> dict[str, Floats]:
    """Return the value of each token's hat function for every person."""
    columns: dict[str, Floats] = {}
    total = np.sum([parameters[race] for race in _RACES], axis=0)
    for race in _RACES:
        columns[race] = parameters[race] / total
    columns |= _hats(parameters["gender"], {"male": 0.0, "female": 1.0})
    columns |= _hats(parameters["age"], _AGE_NODES)
    columns |= _hats(parameters["height"], {"minheight": 0.0, "maxheight": 1.0})
    columns |= _hats(
        parameters["proportions"], {"idealproportions": 0.0, "uncommonproportions": 1.0}
    )
    for name in ("muscle", "weight", "cup", "firmness"):
        columns |= _hats(parameters[name], {g + name: x for g, x in _GRADES.items()})
    # MakeHuman's own weight range gives a standard deviation of BMI of only 1.4 to 2.7, so the
    # outer pieces go on linearly.
    above = np.clip(parameters["weight"] - 1, 0, None) * 2
    below = np.clip(-parameters["weight"], 0, None) * 2
    columns["maxweight"] = columns["maxweight"] + above
    columns["minweight"] = columns["minweight"] + below
    columns["averageweight"] = columns["averageweight"] - above - below
    return columns


def _hats(values: Floats, nodes: dict[str, float]) -> dict[str, Floats]:
    """Return piecewise linear hats over the nodes, constant outside the end nodes."""
    places = list(nodes.values())
    return {name: np.interp(values, places, np.eye(len(places))[i]) for i, name in enumerate(nodes)}


def sample_population(source: Source) -> Population:
    """Draw the adults: even index male, odd female, statures from normal distributions.

    The means and spreads are round numbers of ours, not a survey.

    Args:
        source: Base mesh and targets.

    Returns:
        500 people; the first 400 train the shape space, the others judge it.
    """
    rng = np.random.default_rng(0)
    n = NUM_PEOPLE
    gender = np.where(np.arange(n) % 2 == 0, 0.0, 1.0)
    gender = np.clip(gender + np.where(gender < 0.5, 1, -1) * np.abs(rng.normal(0, 0.12, n)), 0, 1)
    parameters = {
        "gender": gender,
        "age": rng.uniform(0.64, 0.93, n),
        "muscle": np.clip(rng.normal(0.52, 0.22, n), 0, 1),
        "weight": np.clip(rng.normal(0.66, 0.42, n), -0.1, 1.6),
        "proportions": np.clip(rng.normal(0.5, 0.2, n), 0, 1),
        "cup": np.clip(rng.normal(0.5, 0.2, n), 0, 1),
        "firmness": np.clip(rng.normal(0.5, 0.18, n), 0, 1),
    }
    parameters |= dict(zip(_RACES, rng.dirichlet([0.6, 0.6, 0.6], n).T, strict=True))
    is_male = gender < 0.5
    stature = np.where(is_male, rng.normal(1.755, 0.072, n), rng.normal(1.625, 0.067, n))
    ends = [_stature(source, parameters | {"height": np.full(n, height)}) for height in (0.0, 1.0)]
    parameters["height"] = np.clip((stature - ends[0]) / (ends[1] - ends[0]), 0, 1)
    return Population(parameters, target_weights(source.tokens, parameters), is_male)


def _stature(source: Source, parameters: dict[str, Floats]) -> Floats:
    """Return the height of each person in the file's own pose, metres."""
    weights = target_weights(source.tokens, parameters)
    # Only crown and soles can be extreme; a band of candidates keeps this cheap.
    y = source.vertices[:13380, 1]
    band = np.flatnonzero((y > y.max() - 0.06) | (y < y.min() + 0.06))
    heights = source.vertices[band, 1] + weights @ source.deltas[:, band, 1].astype(np.float64)
    return np.asarray(heights.max(1) - heights.min(1))


def average_adult(source: Source, people: Population) -> Floats:
    """Return the full mesh of the average training person in the file's own pose, [19158, 3]."""
    weights = people.weights[:NUM_TRAIN].mean(0)
    return np.asarray(source.vertices + np.tensordot(weights, source.deltas, 1))


def make_bodies(source: Source, weights: Floats, keep: np.ndarray) -> Floats:
    """Return the chosen vertices of every person, [N, len(keep), 3]."""
    deltas = source.deltas[:, keep].astype(np.float64).reshape(len(source.deltas), -1)
    moved = (weights @ deltas).reshape(len(weights), len(keep), 3)
    return np.asarray(source.vertices[keep] + moved)


def make_bone_heads(source: Source, weights: Floats) -> Floats:
    """Return the bone heads of every person, [N, 104, 3]: means of the deformed joint cubes."""
    used = np.unique(np.concatenate(source.heads))
    place = np.full(len(source.vertices), -1)
    place[used] = np.arange(len(used))
    bodies = make_bodies(source, weights, used)
    return np.stack([bodies[:, place[head]].mean(1) for head in source.heads], axis=1)


def signed_volume(vertices: Floats, faces: np.ndarray) -> Floats:
    """Return the enclosed volume of each mesh [..., V, 3] in cubic metres."""
    corners = vertices[..., faces, :]
    crossed = np.cross(corners[..., 1, :], corners[..., 2, :])
    return np.asarray((corners[..., 0, :] * crossed).sum((-1, -2)) / 6)
