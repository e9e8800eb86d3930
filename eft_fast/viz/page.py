"""What the HTML pages share: templates in which every text is escaped, and data for scripts."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import jinja2


def make_environment() -> jinja2.Environment:
    """Templates of this folder; what is printed is escaped, what is missing raises."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("eft_fast.viz", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def script_json(content: dict[str, Any]) -> str:
    """JSON that may stand inside a script element: no tag can end it."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def finite_or_none(value: float, places: int) -> float | None:
    """A number with so many decimals; None for what JSON has no word for."""
    return round(value, places) if math.isfinite(value) else None


def data_uri(kind: str, data: bytes) -> str:
    """The bytes of a file of that media type as an address that a page holds itself."""
    return f"data:{kind};base64," + base64.b64encode(data).decode("ascii")
