"""Values of annotation files, whatever type they came in: JSON, numbers, ids, text for sentences.

Programs write one and the same thing as a number, a float or text. Everything here takes any value
and gives None where it is not what is asked for; only a file that is no JSON raises.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

#: What reading values of other kinds, or other shapes, than a format has ends in.
_OTHER_FORM: Final = (
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    np.linalg.LinAlgError,
)
#: Characters of a value that a sentence shows.
_SHOWN: Final = 80
#: The same of a path, whose end says most.
_SHOWN_OF_PATH: Final = 300


@contextmanager
def expected_form(who: str, path: Path | str) -> Iterator[None]:
    """Turn what values of another kind or shape end in into one sentence, a ValueError.

    Args:
        who: Opens the sentence.
        path: What is read.
    """
    try:
        yield
    except (*_OTHER_FORM, ValueError) as error:
        if isinstance(error, ValueError) and re.match(r"\w+: ", str(error)):
            raise  # a sentence of ours, not one of numpy's
        raise ValueError(
            f"{who}: {path} is not in the form that is expected "
            f"({type(error).__name__}: {shown(str(error))})"
        ) from None


def load_json(path: Path, who: str) -> Any:
    """Parse a JSON file. Bytes outside of UTF-8 stay as in file names (surrogateescape).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read or is not JSON.
    """
    try:
        if not path.is_file():
            raise FileNotFoundError(f"{who}: no file {path}")
        data = path.read_bytes()
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{who}: {path} cannot be opened ({error.strerror})") from None
    if not data:
        raise ValueError(f"{who}: {path} is empty (0 bytes)")
    try:
        return _parse_json(data)
    except json.JSONDecodeError as error:
        fault = f"is not JSON ({error})"
    except (ValueError, RecursionError) as error:
        fault = f"is not JSON ({type(error).__name__})"
    raise ValueError(f"{who}: {path} {fault}")


def _parse_json(data: bytes) -> Any:
    try:
        text = data.decode(json.detect_encoding(data), "surrogatepass")
    except UnicodeDecodeError:
        text = data.decode("utf-8-sig", "surrogateescape")
    try:
        return json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError:
        raise
    except ValueError:
        # Python refuses whole numbers of more than 4300 digits, and with them all of the file.
        return json.loads(text.removeprefix("\ufeff"), parse_int=parse_int)


def parse_int(digits: str) -> int | float:
    """A whole number of any length; one that no float can hold is infinite."""
    if len(digits) <= 400:
        return int(digits)
    return -math.inf if digits.startswith("-") else math.inf


def to_number(value: Any) -> float | None:
    """A finite number; text and booleans are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def to_whole(value: Any) -> int | None:
    """A whole number, also written as a float or as digits, such as the width of a photo."""
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}(\.0*)?\s*", value):
        value = float(value)
    number = to_number(value)
    return int(number) if number is not None and number.is_integer() else None


def to_key(value: Any) -> str | None:
    """One text for an id, so that 2, 2.0, "2" and "2.0" are the same; None if it is no id."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        try:
            return str(value)
        except ValueError:  # More digits than Python writes.
            return None
    if isinstance(value, float):
        return str(int(value)) if math.isfinite(value) and value.is_integer() else None
    if not isinstance(value, str):
        return None
    text = value.strip()
    whole = re.fullmatch(r"(-?[0-9]+)\.0+", text)
    return (whole[1] if whole else text) or None


def shown(value: Any, limit: int = _SHOWN) -> str:
    """A value as a sentence shows it: one line, printable, and not endless; of a path, its end."""
    if isinstance(value, Path):
        text = str(value)
        text = text if len(text) <= _SHOWN_OF_PATH else "..." + text[3 - _SHOWN_OF_PATH :]
        limit = 2 * _SHOWN_OF_PATH
    elif isinstance(value, str):
        text = value[: 2 * limit]
    elif isinstance(value, (list, dict)):
        text = f"a {type(value).__name__} of {len(value)}"
        if len(value) <= 4:
            text = repr(value)[: 2 * _SHOWN] if _is_flat(value) else text
    else:
        text = to_key(value) or repr(value)[: 2 * _SHOWN]
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _is_flat(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value
    return all(
        isinstance(item, (str, float, bool, type(None))) or _is_short(item) for item in items
    )


def _is_short(item: Any) -> bool:
    return isinstance(item, int) and abs(item) < 10**18


def read_points(values: Any, counts: tuple[int, ...], label: str, who: str) -> np.ndarray:
    """Keypoints x, y, confidence as [K, 3], from a flat list or a list of threes.

    Args:
        values: The list.
        counts: Numbers of keypoints that are allowed.
        label: What the sentence calls the person.
        who: Opens the sentence.

    Raises:
        ValueError: If the values are not numbers, or not that many.
    """
    expected = " or ".join(str(3 * count) for count in counts[:2])
    is_list = isinstance(values, list)
    if is_list and values and all(isinstance(row, list) for row in values):
        if {len(row) for row in values} != {3}:
            raise ValueError(
                f"{who}: {label} must have keypoints of three numbers x, y and confidence, got "
                f"rows of {', '.join(map(str, sorted({len(row) for row in values})[:4]))}"
            )
        values = [number for row in values for number in row]
    # Text and booleans would pass as numbers in numpy.
    if not is_list or not {type(value) for value in values} <= {int, float}:
        raise ValueError(
            f"{who}: {label} must have {expected} keypoint numbers, got values that are not numbers"
        )
    if len(values) not in [3 * count for count in counts]:
        raise ValueError(f"{who}: {label} must have {expected} keypoint numbers, got {len(values)}")
    try:
        numbers = np.array(values, dtype=np.float64)
    except OverflowError:
        numbers = np.array([_to_float(value) for value in values])
    return numbers.reshape(-1, 3)


def _to_float(value: float) -> float:
    """A float; a whole number beyond floats is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
