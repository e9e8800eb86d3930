"""Skin, clothes, hair and faces without any asset: signed fields on the body at rest.

Each garment is a field on the vertices, in metres, positive where the garment is. Fields are
interpolated over the picture and cut at zero there, so that hems are sharp whatever the mesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

#: Where a garment cannot be at all.
_NOWHERE: Final = -1.0
_HAIR_COLOURS: Final = np.array(
    [
        [0.08, 0.06, 0.05], [0.25, 0.15, 0.08], [0.60, 0.45, 0.25],
        [0.50, 0.50, 0.50], [0.40, 0.15, 0.08], [0.80, 0.75, 0.70],
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Pattern:
    """Texture of one layer, a function of the rest position.

    Attributes:
        kind: "plain", "stripes", "checks", "dots" or "photo".
        period: Metres of one repeat.
        strength: Amplitude as a factor of the colour.
        angle: Direction of stripes and checks, radians.
        phase: Offset in the photo that "photo" reads, in [0, 1).
    """

    kind: str = "plain"
    period: float = 0.1
    strength: float = 0.0
    angle: float = 0.0
    phase: float = 0.0


@dataclass(frozen=True)
class Outfit:
    """Looks of one person. Later layers cover earlier ones.

    Attributes:
        skin: RGB in [0, 1].
        fields: Signed field of each layer, metres; positive inside.
        colours: RGB of each layer.
        patterns: Texture of each layer.
        inflation: Distance by which each vertex is moved outwards along its normal, metres.
    """

    skin: Float[np.ndarray, " 3"]
    fields: Float[np.ndarray, "L V"]
    colours: Float[np.ndarray, "L 3"]
    patterns: tuple[Pattern, ...]
    inflation: Float[np.ndarray, " V"]


class Wardrobe:
    """Draws outfits for one body model.

    Args:
        v_template: Vertices of the body at rest, y up, arms to the sides, metres.
        joints: Its 24 kinematic joints.
        joint_of: The joint that moves each vertex most.
        face: Rest position of nose, left eye, right eye, left ear and right ear.

    Attributes:
        rest: Vertices at rest.
        seat_rows: Vertices of buttocks and thighs.
    """

    def __init__(
        self,
        v_template: Float[np.ndarray, "V 3"],
        joints: Float[np.ndarray, "24 3"],
        joint_of: np.ndarray,
        face: Float[np.ndarray, "5 3"],
    ) -> None:
        self.rest = v_template.astype(np.float64)
        self.joints = joints
        self.face = face
        self._head = joint_of == 15
        self._scalp = self._head | (joint_of == 12)
        self._foot = np.isin(joint_of, (7, 8, 10, 11))
        self.seat_rows = np.flatnonzero(np.isin(joint_of, (0, 1, 2)))

    def draw(self, rng: np.random.Generator, *, loose: float = 0.0) -> Outfit:
        """Draw skin, clothes, hair and face; ``loose`` are the odds of loose clothes."""
        layers: list[tuple[np.ndarray, np.ndarray, Pattern]] = []
        inflation = np.zeros(len(self.rest))
        tone = rng.random()
        skin = np.array([0.95, 0.78, 0.66]) * (1 - tone) + np.array([0.30, 0.19, 0.13]) * tone
        skin = np.clip(skin + rng.normal(size=3) * 0.02, 0.03, 1)

        garments = self._garments(rng)
        if loose > 0 and rng.random() < loose:
            # Trousers and shirt; shoes stay tight.
            garments[:2] = [(*parts[:3], rng.uniform(0.03, 0.06)) for parts in garments[:2]]
        for field, colour, pattern, thickness in garments:
            layers.append((field, colour, pattern))
            inflation = np.maximum(inflation, thickness * _ramp(field, 0.02))
        inflation *= np.clip(1 + 0.5 * self._waves(rng), 0, 2.5)
        inflation[self._head] = 0

        hair = np.clip(_HAIR_COLOURS[rng.integers(6)] + rng.normal(size=3) * 0.02, 0.02, 1)
        if rng.random() < 0.92:
            field = self._hair(rng)
            layers.append((field, hair, Pattern("photo", 0.05, 0.25, phase=rng.random())))
            inflation = np.maximum(inflation, rng.uniform(0.004, 0.03) * _ramp(field, 0.02))
        if rng.random() < 0.15:
            crown = self.rest[:, 1] - self.face[1, 1] - rng.uniform(0.035, 0.06)
            field = np.where(self._head, crown, _NOWHERE)
            layers.append((field, _cloth_colour(rng), Pattern()))
            inflation = np.maximum(inflation, 0.02 * _ramp(field, 0.01))
        layers.extend(self._face(skin, hair))
        fields, colours, patterns = zip(*layers, strict=True)
        return Outfit(skin, np.stack(fields), np.stack(colours), tuple(patterns), inflation)

    def _garments(
        self, rng: np.random.Generator
    ) -> list[tuple[np.ndarray, np.ndarray, Pattern, float]]:
        """Draw trousers, shirt and shoes: field, colour, pattern and thickness in metres."""
        y, ax, j = self.rest[:, 1], np.abs(self.rest[:, 0]), self.joints
        hip, knee, ankle = j[1:3, 1].mean(), j[4:6, 1].mean(), j[7:9, 1].mean()
        arm = np.abs(j[16:22, 0]).reshape(3, 2).mean(1)  # shoulder, elbow, wrist
        waist = hip + rng.uniform(-0.02, 0.13)
        leg_end = (
            hip - rng.uniform(0.06, 0.20),
            knee - rng.uniform(-0.12, 0.05),
            ankle - rng.uniform(-0.06, 0.05),
        )[int(rng.choice(3, p=(0.12, 0.23, 0.65)))]
        trousers = np.minimum(waist + 0.03 - y, y - leg_end)

        sleeve = (
            arm[0] + rng.uniform(-0.02, 0.05),
            arm[0] + rng.uniform(0.08, 0.20),
            arm[1] + rng.uniform(-0.02, 0.10),
            arm[2] - rng.uniform(-0.01, 0.06),
        )[int(rng.choice(4, p=(0.14, 0.38, 0.12, 0.36)))]
        neck = j[12, 1] + rng.uniform(-0.05, 0.03)
        hem = waist - rng.uniform(0.0, 0.14)
        # Sleeves are cut along the arm, the body of the shirt along the height.
        shirt = np.minimum(np.minimum(neck - y, y - hem), sleeve - ax)
        if rng.random() < 0.25:  # open neck
            throat = np.hypot(ax, y - j[12, 1]) - rng.uniform(0.07, 0.13)
            shirt = np.where(self.rest[:, 2] > 0, np.minimum(shirt, throat), shirt)
        shirt = np.where(self._head, _NOWHERE, shirt)

        loose, loose_leg = rng.uniform(0, 0.028), rng.uniform(0, 0.025)
        colour, leg_colour = _cloth_colour(rng), _cloth_colour(rng)
        pattern, leg_pattern = _pattern(rng), _pattern(rng)
        if rng.random() < 0.12:  # one piece: overalls, a dress
            leg_colour, leg_pattern = colour, pattern
        garments = [
            (trousers, leg_colour, leg_pattern, loose_leg),
            (shirt, colour, pattern, loose),
        ]
        if rng.random() < 0.85:
            shoe = np.where(self._foot, ankle + rng.uniform(-0.04, 0.06) - y, _NOWHERE)
            garments.append((shoe, _cloth_colour(rng) * rng.uniform(0.2, 1), Pattern(), 0.004))
        return garments

    def _hair(self, rng: np.random.Generator) -> np.ndarray:
        """Draw a hair line: above the forehead, and down to the nape behind the ears."""
        y, z = self.rest[:, 1], self.rest[:, 2]
        eye, ear = self.face[1:3].mean(0), self.face[3:].mean(0)
        front = y - eye[1] - rng.uniform(0.035, 0.075)
        back = np.minimum(ear[2] + 0.012 - z, y - ear[1] + rng.uniform(-0.02, 0.13))
        return np.where(self._scalp, np.maximum(front, back), _NOWHERE)

    def _face(
        self, skin: np.ndarray, hair: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray, Pattern]]:
        """Return brows, eyes and mouth."""
        nose, eyes = self.face[0], self.face[1:3]
        front = np.flatnonzero(self._head & (self.rest[:, 2] > self.face[3:, 2].mean() + 0.03))
        rest = self.rest[front]

        def spread(field: np.ndarray) -> np.ndarray:
            """Nothing of a face is elsewhere on the body."""
            whole: np.ndarray = np.full(len(self.rest), _NOWHERE)
            whole[front] = field
            return whole

        def box(centre: np.ndarray, half: tuple[float, float]) -> np.ndarray:
            gap = np.abs(rest[:, :2] - centre[:2]) - np.array(half)
            inside: np.ndarray = -gap.max(1)
            return inside

        distance = np.minimum(*(np.linalg.norm(rest - e, axis=1) for e in eyes))
        brow = spread(np.maximum(*(box(e + [0, 0.021, 0], (0.019, 0.0045)) for e in eyes)))
        white, iris = spread(0.012 - distance), spread(0.0065 - distance)
        mouth = spread(box(nose - [0, 0.038, 0], (0.023, 0.007)))
        return [
            (brow, hair * 0.8, Pattern()),
            (white, np.array([0.85, 0.83, 0.80]), Pattern()),
            (iris, np.array([0.12, 0.08, 0.06]), Pattern()),
            (mouth, skin * np.array([0.80, 0.45, 0.45]), Pattern()),
        ]

    def _waves(self, rng: np.random.Generator) -> np.ndarray:
        """Draw a smooth field on the body of standard deviation 1: folds of cloth."""
        direction = rng.normal(size=(6, 3)) * rng.uniform(8, 40, size=(6, 1))
        wave: np.ndarray = np.sin(self.rest @ direction.T + rng.uniform(0, 6.3, 6)).sum(1)
        wave /= np.sqrt(3.0)
        return wave


def _ramp(field: np.ndarray, width: float) -> np.ndarray:
    """Return 0 outside, 1 at ``width`` metres inside, smooth between."""
    t = np.clip(field / width, 0, 1)
    ramp: np.ndarray = t * t * (3 - 2 * t)
    return ramp


def _cloth_colour(rng: np.random.Generator) -> np.ndarray:
    """Draw a colour: a grey in one case of four, else any hue."""
    if rng.random() < 0.25:
        return np.clip(np.full(3, rng.uniform(0.02, 0.95)) + rng.normal(size=3) * 0.02, 0, 1)
    hue, saturation, value = rng.random(), rng.uniform(0.1, 1), rng.uniform(0.08, 1)
    wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    colour: np.ndarray = value * (1 - saturation + saturation * wheel)
    return colour


def _pattern(rng: np.random.Generator) -> Pattern:
    kind = str(
        rng.choice(
            ("plain", "photo", "stripes", "checks", "dots"), p=(0.35, 0.35, 0.14, 0.10, 0.06)
        )
    )
    return Pattern(
        kind,
        period=float(rng.uniform(0.02, 0.12) if kind != "photo" else rng.uniform(0.1, 1.2)),
        strength=float(rng.uniform(0.05, 0.6)),
        angle=float(rng.choice((0.0, np.pi / 2)) + rng.normal() * 0.05),
        phase=float(rng.random()),
    )
