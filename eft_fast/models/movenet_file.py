"""Read and write the weights of the regressor on MoveNet: one ``.npz`` without pickles.

As ``open_file``. A trunk that is MoveNet as published, and a base that is the package's, are not
written again: the package has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.models.blazepose import VARIANTS as BASE_TRUNKS
from eft_fast.models.blazepose import BlazePose
from eft_fast.models.identity import HASH_DIGITS, arrays_sha256
from eft_fast.models.keypoint_rig import SIZES, KeypointRig
from eft_fast.models.movenet import VARIANTS, MoveNet
from eft_fast.models.movenet_keypoints import MOVENET_PATHS
from eft_fast.models.movenet_regressor import MOVENET_REGRESSOR_IDS, MoveNetRegressor
from eft_fast.models.open_file import (
    OPEN_REGRESSOR_PATH,
    check_hash,
    check_kind,
    read_weights,
    stored_state,
    write_weights,
)
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.models.weights import load_arrays

FORMAT: Final = "eft_fast-open-regressor-2"
#: The weights that ship with the package.
OPEN2_REGRESSOR_PATH: Final = OPEN_REGRESSOR_PATH.with_name("open2_regressor.npz")
OPEN2_LITE_REGRESSOR_PATH: Final = OPEN_REGRESSOR_PATH.with_name("open2_lite_regressor.npz")
_TRUNK: Final = "trunk."
_BASE: Final = "base."
#: Arguments of the head that shape its weights, and the most that a file may ask for.
_OPTIONS: Final[Mapping[str, int]] = {
    "width": 8192, "blocks": 64, "refine_blocks": 64, "passes": 64
}  # fmt: skip
#: The same of the base's head.
_BASE_OPTIONS: Final[Mapping[str, int]] = {"width": 8192, "blocks": 64}
_MOST_POINTS: Final = 4096


def save_movenet_regressor(
    regressor: MoveNetRegressor, path: str | Path, *, licence: str, source_sha256: str
) -> None:
    """Write weights and metadata; arguments as of ``open_file.save_open_regressor``."""
    state = stored_state(regressor)
    card: dict[str, Any] = {
        "format": FORMAT,
        "id": regressor.id,
        "body_id": regressor.body_id,
        "input_size": regressor.input_size,
        "box_margin": regressor.box_margin,
        "camera_convention": regressor.camera_convention,
        "licence": licence,
        "source_sha256": source_sha256,
        "trunk": regressor.trunk.variant,
        "head": {name: regressor.head.options[name] for name in _OPTIONS},
        "rig": regressor.head.rig.sizes,
        "certainty": regressor.head.certainty is not None,
        "weights_hash": arrays_sha256(state)[:HASH_DIGITS],
    }
    card["base"] = _describe_base(regressor.base)
    # Parts that the package holds: their hash takes the place of their weights.
    card["published_trunk"] = card["published_base"] = ""
    for part, prefix, published in (
        ("trunk", _TRUNK, _read_trunk(regressor.trunk.variant)),
        ("base", _BASE, _read_base() if regressor.base is not None else None),
    ):
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if published is not None and arrays_sha256(own) == arrays_sha256(published):
            card[f"published_{part}"] = arrays_sha256(own)[:HASH_DIGITS]
            state = {k: v for k, v in state.items() if not k.startswith(prefix)}
    write_weights(path, card, state)


def load_movenet_regressor(path: str | Path) -> MoveNetRegressor:
    """Build the network that ``save_movenet_regressor`` wrote, in evaluation mode.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, not a file of this network, or its weights are not those
            whose hash it states.
    """
    card, arrays = read_weights(path)
    _check_card(card, Path(path))
    for part, prefix in (("trunk", _TRUNK), ("base", _BASE)):
        stated = card[f"published_{part}"]
        if not stated:
            continue
        published = (_read_trunk(card["trunk"]) if part == "trunk" else _read_base()) or {}
        found = arrays_sha256(published)[:HASH_DIGITS]
        if found != stated:
            raise ValueError(
                f"load_regressor: {path} needs a {part} with the weights {stated}, "
                f"got {found}; use the eft_fast version that wrote it"
            )
        arrays = {prefix + name: array for name, array in published.items()} | arrays
    network = MoveNetRegressor(
        MoveNet(card["trunk"]),
        KeypointRig(card["rig"]),
        _make_base(card["base"]),
        confidence=card["certainty"],
        **card["head"],
    )
    load_arrays(network, arrays, who=f"load_regressor: {path}")
    check_hash(card, network, path)
    return network.eval()


def _read_trunk(variant: str) -> dict[str, np.ndarray[Any, Any]] | None:
    """MoveNet as the package ships it; None: it does not ship this variant."""
    if variant not in MOVENET_PATHS:
        return None
    with np.load(MOVENET_PATHS[variant], allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_base() -> dict[str, np.ndarray[Any, Any]]:
    """The weights of ``open-1`` as the package ships them."""
    return read_weights(OPEN_REGRESSOR_PATH)[1]


def _describe_base(base: OpenRegressor | None) -> dict[str, Any] | None:
    if base is None:
        return None
    return {
        "trunk": base.trunk.variant,
        "width": base.head.width,
        "blocks": len(base.head.blocks),
        "use_features": base.use_features,
    }


def _make_base(described: Mapping[str, Any] | None) -> OpenRegressor | None:
    if described is None:
        return None
    options = {name: described[name] for name in (*_BASE_OPTIONS, "use_features")}
    return OpenRegressor(BlazePose(described["trunk"]), **options)


def _check_card(card: Mapping[str, Any], path: Path) -> None:
    trunk, base = card.get("trunk"), card.get("base", {})
    own_id = MOVENET_REGRESSOR_IDS.get(str(trunk), MOVENET_REGRESSOR_IDS["thunder"])
    check_kind(card, path, file_format=FORMAT, regressor_id=own_id)
    is_known = isinstance(trunk, str) and trunk in VARIANTS
    is_known &= all(isinstance(card.get(f"published_{part}"), str) for part in ("trunk", "base"))
    is_known &= isinstance(card.get("certainty"), bool)
    sizes = {"head": _OPTIONS, "rig": dict.fromkeys(SIZES, _MOST_POINTS)}
    # A rig may have no kinematic joints among its points, a head no further passes.
    is_known = is_known and all(_is_sized(card.get(name), most) for name, most in sizes.items())
    if base is not None and is_known:
        is_known = isinstance(base, dict) and base.get("trunk") in BASE_TRUNKS
        is_known = is_known and isinstance(base.get("use_features"), bool)
        is_known = is_known and _is_sized({k: base.get(k) for k in _BASE_OPTIONS}, _BASE_OPTIONS)
    if not is_known or card.get("input_size") != VARIANTS[str(trunk)].size:
        raise ValueError(f"load_regressor: {path} does not describe its network; fetch it again")


def _is_sized(given: Any, most: Mapping[str, int]) -> bool:
    """Whether somebody gives these counts, each from 0 to its most."""
    return (
        isinstance(given, dict)
        and set(given) == set(most)
        and all(type(given[key]) is int and 0 <= given[key] <= limit for key, limit in most.items())
    )
