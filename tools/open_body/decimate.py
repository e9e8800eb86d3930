"""Reduce the base mesh to 6890 vertices: symmetric half-edge collapse by quadric error.

One half of the body is reduced and then reflected. A vertex is never moved, only dropped, so every
attribute of the result (targets, weights, texture coordinates) is a gather from the base mesh.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from .source import BODY, EYES, LANDMARKS, NIPPLES, Floats, Ints, Source

NUM_OUTPUT = 6890
NUM_MIDLINE = 100
# Weight of the edge-length term against the quadric: keeps flat regions evenly meshed.
LENGTH_WEIGHT = 2e-3
MAX_VALENCE = 10
MIN_NORMAL_COSINE = 0.35
# Twice the area over the longest edge squared.
MIN_SHAPE = 0.12

# Factors on the cost of dropping a vertex: inside cavities, and within some rings of triangles
# around them; where both rings hold, they multiply.
HIDDEN = 0.005
NEAR_CAVITY = ((9, 2.5), (4, 2.5))
# A midline vertex has half its quadric in each half, and dropping it saves one vertex, not two.
MIDDLE = 3.0

Quadric = tuple[float, ...]


@dataclass(frozen=True)
class Topology:
    """The reduced mesh.

    Attributes:
        keep: Base vertex of each output vertex, [V].
        faces: Triangles over the output vertices, [F, 3].
        uv: Texture coordinates, [U, 2].
        face_uv: Row of ``uv`` at each corner, [F, 3].
        mirror: Left/right vertex map, [V].
        is_eye: Flags [V].
        is_hidden: Vertices inside mouth, sockets and nostrils, [V].
    """

    keep: Ints
    faces: Ints
    uv: Floats
    face_uv: Ints
    mirror: Ints
    is_eye: np.ndarray
    is_hidden: np.ndarray


@dataclass(frozen=True)
class Plan:
    """What the collapse may do with each base vertex."""

    places: list[tuple[float, float, float]]
    is_middle: np.ndarray
    is_locked: np.ndarray
    importance: Floats
    weights: Floats


class HalfMesh:
    """Triangles of one half, and the collapse of their edges."""

    def __init__(self, faces: Ints, face_uv: Ints, plan: Plan) -> None:
        self.plan = plan
        self.faces = {i: list(map(int, t)) for i, t in enumerate(faces)}
        self.face_uv = {i: list(map(int, t)) for i, t in enumerate(face_uv)}
        self.around: dict[int, set[int]] = {}
        for i, t in self.faces.items():
            for v in t:
                self.around.setdefault(v, set()).add(i)
        self.quadrics: dict[int, Quadric] = {v: (0.0,) * 10 for v in self.around}
        for t in self.faces.values():
            quadric = self._plane(t)
            for v in t:
                self.quadrics[v] = tuple(
                    a + b for a, b in zip(self.quadrics[v], quadric, strict=True)
                )
        self.version = dict.fromkeys(self.around, 0)
        self.heap: list[tuple[float, int, int, int, int]] = []
        for a, b in sorted({(min(e), max(e)) for t in self.faces.values() for e in _edges(t)}):
            self._push(a, b)

    def _plane(self, t: list[int]) -> Quadric:
        """Return the upper triangle of the area-weighted plane quadric of a triangle."""
        p = [self.plan.places[v] for v in t]
        n = _normal(*p)
        twice = max(sum(x * x for x in n) ** 0.5, 1e-12)
        a, b, c = (x / twice for x in n)
        d = -(a * p[0][0] + b * p[0][1] + c * p[0][2])
        h = (a, b, c, d)
        return tuple(h[i] * h[j] * twice / 2 for i in range(4) for j in range(i, 4))

    def neighbours(self, v: int) -> set[int]:
        """Return the vertices that share a triangle with v."""
        ring = {x for i in self.around[v] for x in self.faces[i]}
        ring.discard(v)
        return ring

    def _cost(self, u: int, v: int) -> float:
        """Return the price of moving u onto v."""
        x, y, z = self.plan.places[v]
        h = (x, y, z, 1.0)
        q = [a + b for a, b in zip(self.quadrics[u], self.quadrics[v], strict=True)]
        error, k = 0.0, 0
        for i in range(4):
            for j in range(i, 4):
                error += q[k] * h[i] * h[j] * (1.0 if i == j else 2.0)
                k += 1
        length = _distance2(self.plan.places[u], self.plan.places[v])
        valence = len(self.neighbours(u)) + len(self.neighbours(v)) - 4
        change = float(np.abs(self.plan.weights[u] - self.plan.weights[v]).sum())
        penalty = length * length * (1 + 2 * change) * (1 + max(0, valence - 7) * 0.5)
        importance = min(self.plan.importance[u], self.plan.importance[v])
        return (error + LENGTH_WEIGHT * penalty) * float(importance)

    def _push(self, a: int, b: int) -> None:
        for u, v in ((a, b), (b, a)):
            if self.plan.is_locked[u] or (self.plan.is_middle[u] and not self.plan.is_middle[v]):
                continue
            entry = (self._cost(u, v), u, v, self.version[u], self.version[v])
            heapq.heappush(self.heap, entry)

    def counts(self) -> tuple[int, int]:
        """Return the number of side and of midline vertices."""
        middle = sum(1 for v in self.around if self.plan.is_middle[v])
        return len(self.around) - middle, middle

    def reduce(self, total: int, min_middle: int) -> None:
        """Collapse the cheapest edges until twice the side plus the midline is ``total``."""
        side, middle = self.counts()
        while 2 * side + middle > total:
            if not self.heap:
                raise RuntimeError(f"reduce: no edge left at {2 * side + middle} of {total}")
            _, u, v, at_u, at_v = heapq.heappop(self.heap)
            if u not in self.around or v not in self.around:
                continue
            if self.version[u] != at_u or self.version[v] != at_v:
                continue
            is_middle = bool(self.plan.is_middle[u])
            if is_middle and middle <= min_middle:
                continue
            # A side collapse removes two vertices of the whole body.
            if not is_middle and 2 * side + middle - total == 1:
                continue
            if self._collapse(u, v):
                side, middle = (side, middle - 1) if is_middle else (side - 1, middle)

    def _collapse(self, u: int, v: int) -> bool:
        """Move u onto v if the mesh stays clean."""
        shared = self.around[u] & self.around[v]
        if len(shared) != (1 if self.plan.is_middle[u] else 2):
            return False
        ring_u, ring_v = self.neighbours(u), self.neighbours(v)
        opposite = {x for i in shared for x in self.faces[i]} - {u, v}
        if ring_u & ring_v != opposite or len(ring_u | ring_v) - 2 > MAX_VALENCE:
            return False
        # Both sides of a texture seam at u must continue at v.
        moved = {}
        for i in shared:
            corner = self.faces[i].index
            moved[self.face_uv[i][corner(u)]] = self.face_uv[i][corner(v)]
        if any(self.face_uv[i][self.faces[i].index(u)] not in moved for i in self.around[u]):
            return False
        if not all(self._stays_clean(i, u, v) for i in self.around[u] - shared):
            return False
        for i in shared:
            for x in self.faces[i]:
                self.around[x].discard(i)
            del self.faces[i], self.face_uv[i]
        for i in sorted(self.around[u]):
            corner_u = self.faces[i].index(u)
            self.faces[i][corner_u] = v
            self.face_uv[i][corner_u] = moved[self.face_uv[i][corner_u]]
            self.around[v].add(i)
        del self.around[u]
        self.quadrics[v] = tuple(
            a + b for a, b in zip(self.quadrics[u], self.quadrics[v], strict=True)
        )
        self.version[v] += 1
        for x in sorted(self.neighbours(v)):
            self._push(v, x)
        return True

    def _stays_clean(self, face: int, u: int, v: int) -> bool:
        """Return whether a triangle neither turns over nor becomes a sliver when u moves to v."""
        places = self.plan.places
        before = [places[x] for x in self.faces[face]]
        after = [places[v if x == u else x] for x in self.faces[face]]
        n0, n1 = _normal(*before), _normal(*after)
        l0, l1 = (sum(x * x for x in n) ** 0.5 for n in (n0, n1))
        if sum(a * b for a, b in zip(n0, n1, strict=True)) < MIN_NORMAL_COSINE * l0 * l1:
            return False
        longest = max(_distance2(after[i], after[i - 1]) for i in range(3))
        return bool(l1 >= MIN_SHAPE * longest)


def _edges(t: list[int]) -> list[tuple[int, int]]:
    return [(t[0], t[1]), (t[1], t[2]), (t[2], t[0])]


def _normal(
    a: tuple[float, ...], b: tuple[float, ...], c: tuple[float, ...]
) -> tuple[float, float, float]:
    """Return the cross product of two edges, twice the area long."""
    e = (b[0] - a[0], b[1] - a[1], b[2] - a[2])
    f = (c[0] - a[0], c[1] - a[1], c[2] - a[2])
    return e[1] * f[2] - e[2] * f[1], e[2] * f[0] - e[0] * f[2], e[0] * f[1] - e[1] * f[0]


def _distance2(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return sum((x - y) * (x - y) for x, y in zip(a, b, strict=True))


def decimate(source: Source, shape: Floats, is_hidden: np.ndarray) -> Topology:
    """Reduce body and eyes to exactly 6890 vertices.

    Args:
        source: Base mesh.
        shape: Vertices [19158, 3] of the body whose surface is to be kept.
        is_hidden: Flags [19158] of vertices that nothing outside sees.

    Returns:
        The reduced mesh, exactly symmetric.
    """
    x = source.vertices[:, 0]
    is_body = np.zeros(len(x), bool)
    is_body[BODY] = True
    is_eye = np.zeros(len(x), bool)
    is_eye[EYES] = True
    is_middle = _is_middle(source)
    in_half = ((x > 1e-7) | is_middle)[source.faces].all(1) & is_body[source.faces].all(1)
    plan = Plan(
        places=[(float(p[0]), float(p[1]), float(p[2])) for p in shape],
        is_middle=is_middle,
        is_locked=_locked(source, is_hidden),
        importance=_importance(source, is_hidden),
        weights=source.weights,
    )
    half = HalfMesh(source.faces[in_half], source.face_uv[in_half], plan)
    half.reduce(NUM_OUTPUT - int(is_eye.sum()), NUM_MIDLINE)
    left = np.array(list(half.faces.values()))
    left_uv = np.array(list(half.face_uv.values()))
    right = source.mirror[left][:, ::-1]
    right_uv = _mirror_uv(source, left, left_uv)[:, ::-1]
    eyes = is_eye[source.faces].all(1)
    faces = np.concatenate([left, right, source.faces[eyes]])
    face_uv = np.concatenate([left_uv, right_uv, source.face_uv[eyes]])
    keep, flat = np.unique(faces, return_inverse=True)
    uv, flat_uv = np.unique(face_uv, return_inverse=True)
    place = np.full(len(x), -1)
    place[keep] = np.arange(len(keep))
    return Topology(
        keep=keep,
        faces=flat.reshape(faces.shape),
        uv=source.uv[uv],
        face_uv=flat_uv.reshape(faces.shape),
        mirror=place[source.mirror[keep]],
        is_eye=is_eye[keep],
        is_hidden=is_hidden[keep],
    )


def _is_middle(source: Source) -> np.ndarray:
    return np.asarray(np.abs(source.vertices[:, 0]) <= 1e-7)


def _importance(source: Source, is_hidden: np.ndarray) -> Floats:
    """Return the factor on the cost of dropping each vertex."""
    importance = np.where(is_hidden, HIDDEN, 1.0)
    for rings, factor in NEAR_CAVITY:
        importance[_grow(source.faces, is_hidden, rings) & ~is_hidden] *= factor
    importance[_is_middle(source)] *= MIDDLE
    fingers = _bone_share(source, ("finger", "metacarpal", "wrist"))
    toes = _bone_share(source, ("toe",))
    importance *= (1 - 0.25 * fingers) * (1 - 0.75 * toes)
    importance[NIPPLES] = 1e-6
    return importance


def _bone_share(source: Source, prefixes: tuple[str, ...]) -> Floats:
    columns = [i for i, name in enumerate(source.bones) if name.startswith(prefixes)]
    return np.asarray(source.weights[:, columns].sum(1))


def _grow(faces: Ints, flags: np.ndarray, rings: int) -> np.ndarray:
    """Return flags grown by some rings of triangles."""
    grown = flags.copy()
    for _ in range(rings):
        grown[faces[grown[faces].any(1)].ravel()] = True
    return grown


def _locked(source: Source, is_hidden: np.ndarray) -> np.ndarray:
    """Return flags of the vertices that stay: landmarks, lip line and lid margins.

    Lip line and lid margins are the visible vertices that border what is hidden.
    """
    border = _grow(source.faces, is_hidden, 1) & _grow(source.faces, ~is_hidden, 1)
    # Just inside, the midline stays too: without it the inner lip shows between the lips.
    locked = border & (~is_hidden | _is_middle(source))
    for vertex in LANDMARKS.values():
        locked[[vertex, source.mirror[vertex]]] = True
    return np.asarray(locked)


def _mirror_uv(source: Source, left: Ints, left_uv: Ints) -> Ints:
    """Return the texture rows of the reflected corners; at a seam the nearest to reflected u."""
    rows: dict[int, set[int]] = {}
    for vertex, row in zip(source.faces.ravel(), source.face_uv.ravel(), strict=True):
        rows.setdefault(int(vertex), set()).add(int(row))
    result = np.empty_like(left_uv)
    for index in np.ndindex(*left.shape):
        options = sorted(rows[int(source.mirror[left[index]])])
        wanted = source.uv[left_uv[index]] * [-1, 1] + [1, 0]
        distance = ((source.uv[options] - wanted) ** 2).sum(1)
        result[index] = options[int(np.argmin(distance))]
    return result
