"""Read and write the weights of the open regressor: one ``.npz`` without pickles.

Parameters are stored in float16, the precision of the published trunk; buffers in float32. The hash
of the weights as they are stored is beside them, and a file that holds others is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.archives import NUMPY_ERRORS, check_unpacked
from eft_fast.conventions import OPEN_CROP, SCALE_SHIFT
from eft_fast.files import save_npz
from eft_fast.models.base import Regressor
from eft_fast.models.blazepose import VARIANTS, BlazePose
from eft_fast.models.identity import HASH_DIGITS, arrays_sha256
from eft_fast.models.open_regressor import BODY_ID, REGRESSOR_ID, OpenRegressor
from eft_fast.models.weights import load_arrays

#: Weights of ``open-1``, which ship with the package.
OPEN_REGRESSOR_PATH: Final = Path(__file__).parent.parent / "assets" / "open_regressor.npz"
FORMAT: Final = "eft_fast-open-regressor-1"
_CARD_KEY: Final = "card"
_STATE: Final = "state/"
#: What a file may ask for: the network that ships has 12 MB, a width of 512 and two blocks.
_MOST_BYTES, _MOST_WIDTH, _MOST_BLOCKS = 2**29, 8192, 64


def save_open_regressor(
    regressor: OpenRegressor, path: str | Path, *, licence: str, source_sha256: str
) -> None:
    """Write weights and metadata.

    Args:
        regressor: The network, on any device.
        path: File to write; the name should end with ``.npz``.
        licence: Licence of the weights, as an SPDX expression.
        source_sha256: Hash of the file that the trunk's weights came from.
    """
    card = {
        "format": FORMAT,
        "id": regressor.id,
        "body_id": regressor.body_id,
        "input_size": regressor.input_size,
        "camera_convention": regressor.camera_convention,
        "licence": licence,
        "source_sha256": source_sha256,
        "trunk": regressor.trunk.variant,
        "width": regressor.head.width,
        "blocks": len(regressor.head.blocks),
        "use_features": regressor.use_features,
        "certainty": regressor.head.certainty is not None,
    }
    state = stored_state(regressor)
    card["weights_hash"] = arrays_sha256(state)[:HASH_DIGITS]
    write_weights(path, card, state)


def read_card(path: str | Path) -> dict[str, Any]:
    """Read the metadata of a weights file, of any network."""
    return read_weights(path)[0]


def load_open_regressor(path: str | Path) -> OpenRegressor:
    """Build the network that ``save_open_regressor`` wrote, in evaluation mode.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, not a file of this network, or its weights are not those
            whose hash it states; files of earlier versions state none.
    """
    card, arrays = read_weights(path)
    _check_card(card, Path(path))
    network = OpenRegressor(
        BlazePose(card["trunk"]),
        width=int(card["width"]),
        blocks=int(card["blocks"]),
        use_features=bool(card["use_features"]),
        confidence=bool(card.get("certainty", False)),
    )
    load_arrays(network, arrays, who=f"load_regressor: {path}")
    check_hash(card, network, path)
    return network.eval()


def check_kind(card: Mapping[str, Any], path: Path, *, file_format: str, regressor_id: str) -> None:
    """Raise ValueError unless a card is of that format, of that network and of the open body."""
    expected = {
        "format": file_format,
        "id": regressor_id,
        "body_id": BODY_ID,
        "camera_convention": SCALE_SHIFT,
    }
    for key, value in expected.items():
        if card.get(key) != value:
            raise ValueError(
                f"load_regressor: {path} must have {key} {value!r}, got {card.get(key)!r}; "
                "use the eft_fast version that wrote it"
            )


def check_hash(card: Mapping[str, Any], network: Regressor, path: str | Path) -> None:
    """Raise ValueError unless the weights are those whose hash the card states, if it does."""
    stated = card.get("weights_hash", network.weights_hash)
    if stated != network.weights_hash:
        raise ValueError(
            f"load_regressor: {path} must hold the weights {stated}, got {network.weights_hash}; "
            "they were changed after they were written, fetch the file again"
        )


def write_weights(
    path: str | Path, card: Mapping[str, Any], state: Mapping[str, np.ndarray[Any, Any]]
) -> None:
    """Write a file that ``read_weights`` reads."""
    arrays: dict[str, Any] = {_CARD_KEY: np.array(json.dumps(dict(card)))}
    save_npz(path, arrays | {_STATE + name: array for name, array in state.items()})


def stored_state(regressor: Regressor) -> dict[str, np.ndarray[Any, Any]]:
    """Weights as they are stored: parameters in float16, buffers in float32."""
    trained = {name for name, _ in regressor.named_parameters()}
    return {
        name: tensor.detach().cpu().numpy().astype(np.float16 if name in trained else np.float32)
        for name, tensor in regressor.state_dict().items()
    }


def read_weights(
    source: str | Path,
) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """Read card and weights, whichever network they are of.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no weights file, or damaged.
    """
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"load_regressor: no file {path}; pass 'open' for the regressor of the package"
        )
    check_unpacked(path, _MOST_BYTES, "load_regressor")
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
        card = json.loads(str(content.pop(_CARD_KEY)))
    except NUMPY_ERRORS as error:
        raise ValueError(
            f"load_regressor: {path} is not a weights file of the open regressor, or damaged "
            f"({type(error).__name__}); fetch it again"
        ) from error
    if not isinstance(card, dict):
        raise ValueError(f"load_regressor: {path} does not describe its network; fetch it again")
    return card, {name.removeprefix(_STATE): array for name, array in content.items()}


def _check_card(got: Mapping[str, Any], path: Path) -> None:
    check_kind(got, path, file_format=FORMAT, regressor_id=REGRESSOR_ID)
    sizes = [(got.get("width"), _MOST_WIDTH), (got.get("blocks"), _MOST_BLOCKS)]
    is_sized = all(type(size) is int and 0 < size <= most for size, most in sizes)
    trunk = got.get("trunk")
    if (
        not isinstance(trunk, str)
        or trunk not in VARIANTS
        or not is_sized
        or not isinstance(got.get("use_features"), bool)
        or got.get("input_size") != OPEN_CROP
    ):
        raise ValueError(f"load_regressor: {path} does not describe its network; fetch it again")
