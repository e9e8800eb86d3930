"""Read and write the weights of the regressor on MoveNet: one ``.npz`` without pickles.

As ``open_file``. A trunk that is MoveNet as published is not written again: the package has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.models.identity import HASH_DIGITS, arrays_sha256
from eft_fast.models.keypoint_rig import SIZES, KeypointRig
from eft_fast.models.movenet import VARIANTS, MoveNet
from eft_fast.models.movenet_keypoints import MOVENET_PATH
from eft_fast.models.movenet_regressor import MOVENET_REGRESSOR_ID, MoveNetRegressor
from eft_fast.models.open_file import (
    check_hash,
    check_kind,
    read_weights,
    stored_state,
    write_weights,
)
from eft_fast.models.weights import load_arrays

FORMAT: Final = "eft_fast-open-regressor-2"
_TRUNK: Final = "trunk."
#: Arguments of the head that shape its weights, and the most that a file may ask for.
_OPTIONS: Final[Mapping[str, int]] = {
    "width": 8192, "blocks": 64, "refine_blocks": 64, "passes": 64, "neck": 4096, "lens": 1024
}  # fmt: skip
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
    own = {k.removeprefix(_TRUNK): v for k, v in state.items() if k.startswith(_TRUNK)}
    card["published_trunk"] = ""
    if regressor.trunk.variant == "thunder":
        published = _read_published()
        if arrays_sha256(own) == arrays_sha256(published):
            card["published_trunk"] = arrays_sha256(published)[:HASH_DIGITS]
            state = {k: v for k, v in state.items() if not k.startswith(_TRUNK)}
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
    if card["published_trunk"]:
        published = _read_published()
        found = arrays_sha256(published)[:HASH_DIGITS]
        if found != card["published_trunk"]:
            raise ValueError(
                f"load_regressor: {path} needs MoveNet with the weights {card['published_trunk']}, "
                f"got {found}; use the eft_fast version that wrote it"
            )
        arrays = {_TRUNK + name: array for name, array in published.items()} | arrays
    rig = KeypointRig(card["rig"])
    network = MoveNetRegressor(
        MoveNet(card["trunk"]), rig, confidence=card["certainty"], **card["head"]
    )
    load_arrays(network, arrays, who=f"load_regressor: {path}")
    check_hash(card, network, path)
    return network.eval()


def _read_published() -> dict[str, np.ndarray[Any, Any]]:
    """MoveNet as the package ships it."""
    with np.load(MOVENET_PATH, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _check_card(card: Mapping[str, Any], path: Path) -> None:
    check_kind(card, path, file_format=FORMAT, regressor_id=MOVENET_REGRESSOR_ID)
    trunk, published = card.get("trunk"), card.get("published_trunk")
    is_known = isinstance(trunk, str) and trunk in VARIANTS and isinstance(published, str)
    is_known &= isinstance(card.get("certainty"), bool)
    sizes = {"head": _OPTIONS, "rig": dict.fromkeys(SIZES, _MOST_POINTS)}
    for name, most in sizes.items():
        given: Any = card.get(name)
        is_known &= isinstance(given, dict) and set(given) == set(most)
        is_known = is_known and all(
            # A rig may have no kinematic joints among its points, a head no further passes.
            type(given[key]) is int and 0 <= given[key] <= limit
            for key, limit in most.items()
        )
    if not is_known or card.get("input_size") != VARIANTS[str(trunk)].size:
        raise ValueError(f"load_regressor: {path} does not describe its network; fetch it again")
