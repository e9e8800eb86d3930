from __future__ import annotations

import numpy as np
import pytest

from eft_fast.synth.clothes import Outfit, Pattern
from eft_fast.synth.render import Renderer
from eft_fast.synth.scene import Lights
from eft_fast.synth.shade import shade


@pytest.fixture(scope="module")
def outfits(renderer: Renderer) -> list[Outfit]:
    wardrobe = renderer.wardrobe
    return [wardrobe.draw(np.random.default_rng(seed)) for seed in range(40)]


def covered(renderer: Renderer, outfit: Outfit, layer: int, joint: int, radius: float) -> float:
    """Share of the vertices around a rest joint that a layer covers."""
    wardrobe = renderer.wardrobe
    near = np.linalg.norm(wardrobe.rest - wardrobe.joints[joint], axis=1) < radius
    return float((outfit.fields[layer][near] > 0).mean())


def test_trousers_are_on_the_legs_and_shirts_on_the_chest(
    renderer: Renderer, outfits: list[Outfit]
) -> None:
    for outfit in outfits:
        assert covered(renderer, outfit, 0, 1, 0.12) > 0.3  # left hip
        assert covered(renderer, outfit, 0, 15, 0.2) == 0  # head
        assert covered(renderer, outfit, 1, 9, 0.15) > 0.6  # upper spine
        assert covered(renderer, outfit, 1, 22, 0.05) == 0  # left hand


def test_hems_and_sleeves_differ(renderer: Renderer, outfits: list[Outfit]) -> None:
    knees = [covered(renderer, o, 0, 7, 0.15) > 0.1 for o in outfits]
    elbows = [covered(renderer, o, 1, 18, 0.06) > 0.5 for o in outfits]
    assert 0.2 < np.mean(knees) < 0.95
    assert 0.1 < np.mean(elbows) < 0.9


def test_clothes_stand_off_the_body_but_not_the_face(
    renderer: Renderer, outfits: list[Outfit]
) -> None:
    nose = np.linalg.norm(renderer.wardrobe.rest - renderer.wardrobe.face[0], axis=1).argmin()
    for outfit in outfits:
        assert (outfit.inflation >= 0).all()
        assert outfit.inflation.max() < 0.08
        assert outfit.inflation[nose] == 0
    assert max(o.inflation.max() for o in outfits) > 0.02


def test_colours_are_colours(outfits: list[Outfit]) -> None:
    for outfit in outfits:
        assert ((outfit.colours >= 0) & (outfit.colours <= 1)).all()
        assert len(outfit.patterns) == len(outfit.colours) == len(outfit.fields)


def test_light_falls_on_what_faces_it() -> None:
    outfit = Outfit(
        np.array([0.5, 0.5, 0.5]),
        np.full((1, 1), -1.0),
        np.zeros((1, 3)),
        (Pattern(),),
        np.zeros(1),
    )
    lights = Lights(0.2, np.array([[0, 0, -1.0], [0, 0, -1.0]]), np.array([[0.6] * 3, [0.0] * 3]))
    texture = np.full((4, 4, 3), 127, dtype=np.uint8)
    normals = np.array([[0, 0, -2.0], [0, 0, 3.0]], dtype=np.float32)
    rest = np.zeros((2, 3), dtype=np.float32)
    lit, dark = shade(normals, rest, np.full((2, 1), -1.0), outfit, lights, texture, 0.003)
    np.testing.assert_allclose(lit, 0.5 * 0.8, atol=0.01)
    np.testing.assert_allclose(dark, 0.5 * 0.2, atol=0.01)


def test_later_layers_cover_earlier_ones() -> None:
    colours = np.array([[1.0, 0, 0], [0, 0, 1.0]])
    outfit = Outfit(np.ones(3), np.zeros((2, 1)), colours, (Pattern(), Pattern()), np.zeros(1))
    lights = Lights(1.0, np.array([[0, 0, -1.0]] * 2), np.zeros((2, 3)))
    texture = np.full((4, 4, 3), 127, dtype=np.uint8)
    fields = np.array([[0.1, -0.1], [0.1, 0.1], [-0.1, -0.1]], dtype=np.float32)
    pixels = shade(
        np.tile([0, 0, -1.0], (3, 1)), np.zeros((3, 3)), fields, outfit, lights, texture, 0.003
    )
    np.testing.assert_allclose(pixels[0], colours[0], atol=1e-6)
    np.testing.assert_allclose(pixels[1], colours[1], atol=1e-6)
    np.testing.assert_allclose(pixels[2], 1, atol=0.02)


@pytest.mark.parametrize("kind", ["stripes", "checks", "dots", "photo"])
def test_patterns_vary_over_the_body(kind: str) -> None:
    pattern = Pattern(kind, period=0.1, strength=0.5)
    outfit = Outfit(np.ones(3), np.zeros((1, 1)), np.full((1, 3), 0.5), (pattern,), np.zeros(1))
    lights = Lights(1.0, np.array([[0, 0, -1.0]] * 2), np.zeros((2, 3)))
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    rest = rng.normal(size=(200, 3)).astype(np.float32)
    pixels = shade(
        np.tile([0, 0, -1.0], (200, 1)), rest, np.ones((200, 1)), outfit, lights, texture, 0.003
    )
    assert pixels.std() > 0.08
