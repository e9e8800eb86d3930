"""``synth.shade`` for the pixels of many people at once, on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from eft_fast.synth.clothes import Outfit, Pattern

_KINDS: Final = ("plain", "photo", "stripes", "checks", "dots")
#: Field of a layer that somebody does not wear.
_NOWHERE: Final = -1.0
#: Texture of bare skin, as ``synth.shade`` has it.
_SKIN: Final = Pattern("photo", 0.5, 0.12)


class OutfitTable(NamedTuple):
    """Looks of N people, padded to one number of layers; layer 0 is the skin.

    Attributes:
        fields: Signed field of the garment layers, metres.
        inflation: Distance by which vertices are moved outwards, metres.
        colours: RGB of skin and layers.
        kind: Place of the pattern in the list of kinds.
        pattern: Period (metres), strength, cosine and sine of the angle, phase.
    """

    fields: Float[Tensor, "N V L"]
    inflation: Float[Tensor, "N V"]
    colours: Float[Tensor, "N L1 3"]
    kind: Int[Tensor, "N L1"]
    pattern: Float[Tensor, "N L1 5"]

    def take(self, rows: Int[Tensor, " M"]) -> OutfitTable:
        """Return the outfits with these numbers."""
        return OutfitTable(*(part[rows] for part in self))


class PixelLights(NamedTuple):
    """Lights of N people's pictures, camera frame."""

    ambient: Float[Tensor, " N"]
    directions: Float[Tensor, "N 2 3"]
    colours: Float[Tensor, "N 2 3"]


def make_outfit_table(
    outfits: Sequence[Outfit], device: torch.device, *, dtype: torch.dtype = torch.float32
) -> OutfitTable:
    """Stack outfits; ``dtype`` is that of fields and inflation, by far the largest parts."""
    layers = max(len(outfit.patterns) for outfit in outfits)
    count, vertices = len(outfits), outfits[0].fields.shape[1]
    fields = torch.full((count, vertices, layers), _NOWHERE, dtype=dtype)
    colours = torch.zeros(count, layers + 1, 3)
    kind = torch.zeros(count, layers + 1, dtype=torch.int64)
    pattern = torch.ones(count, layers + 1, 5)
    for row, outfit in enumerate(outfits):
        worn = len(outfit.patterns)
        fields[row, :, :worn] = torch.from_numpy(outfit.fields.T.astype(np.float32)).to(dtype)
        looks = np.concatenate([outfit.skin[None], outfit.colours]).astype(np.float32)
        colours[row, : worn + 1] = torch.from_numpy(looks)
        for layer, p in enumerate((_SKIN, *outfit.patterns)):
            kind[row, layer] = _KINDS.index(p.kind)
            numbers = [p.period, p.strength, math.cos(p.angle), math.sin(p.angle), p.phase]
            pattern[row, layer] = torch.tensor(numbers)
    inflation = np.stack([outfit.inflation for outfit in outfits]).astype(np.float32)
    parts = (fields, torch.from_numpy(inflation).to(dtype), colours, kind, pattern)
    return OutfitTable(*(part.to(device) for part in parts))


def shade_rows(
    values: Float[Tensor, "M C"],
    owner: Int[Tensor, " M"],
    outfits: OutfitTable,
    lights: PixelLights,
    texture: UInt8[Tensor, "N T T 3"],
    softness: Float[Tensor, " N"],
) -> Float[Tensor, "M 3"]:
    """Return the colour of pixels, 1 = white; compare ``synth.shade.shade``.

    Args:
        values: Normals, rest positions and fields of each pixel.
        owner: Whose pixel it is.
        outfits: Looks of everybody; their fields are not read.
        lights: Lights of everybody's picture.
        texture: Picture that their patterns read.
        softness: Width of their hems, metres.
    """
    normals, rest, fields = values[:, :3], values[:, 3:6], values[:, 6:]
    colour = outfits.colours[owner, 0]
    colour = colour * (1 + _pattern_values(rest, owner, 0, outfits, texture))
    for layer in range(fields.shape[1]):
        mask = (fields[:, layer] / softness[owner] + 0.5).clamp(0, 1)[:, None]
        paint = outfits.colours[owner, layer + 1]
        paint = paint * (1 + _pattern_values(rest, owner, layer + 1, outfits, texture))
        colour = colour * (1 - mask) + paint * mask
    unit = normals / normals.norm(dim=1, keepdim=True).clamp_min(1e-6)
    facing = torch.einsum("mk,mdk->md", unit, lights.directions[owner]).clamp_min(0)
    light = torch.einsum("md,mdk->mk", facing, lights.colours[owner])
    shaded: Tensor = colour.clamp_min(0) * (lights.ambient[owner][:, None] + light)
    return shaded


def _pattern_values(
    rest: Float[Tensor, "M 3"],
    owner: Int[Tensor, " M"],
    layer: int,
    outfits: OutfitTable,
    texture: UInt8[Tensor, "N T T 3"],
) -> Float[Tensor, "M 3"]:
    """Return strength * pattern of one layer; 0 where it is plain."""
    kind = outfits.kind[owner, layer][:, None]
    period, strength, c, s, phase = outfits.pattern[owner, layer].unbind(1)
    x = (rest[:, 0] + 0.6 * rest[:, 2]) / period
    y = (rest[:, 1] + 0.4 * rest[:, 2]) / period
    side = texture.shape[1]
    column = ((x + phase) * side).to(torch.int64) % side
    row = ((y + 2.7 * phase) * side).to(torch.int64) % side
    photo = texture[owner, row, column].float() / 127.5 - 1
    along, across = torch.sin(6.2832 * (c * y + s * x)), torch.sin(6.2832 * (c * x - s * y))
    stripes = torch.tanh(6 * along)[:, None]
    checks = stripes * torch.tanh(6 * across)[:, None]
    dots = torch.tanh(6 * (along + across - 1.2))[:, None]
    value = torch.zeros_like(photo)
    for name, pattern in (("photo", photo), ("stripes", stripes), ("checks", checks)):
        value = torch.where(kind == _KINDS.index(name), pattern, value)
    value = torch.where(kind == _KINDS.index("dots"), dots, value)
    return value * strength[:, None]
