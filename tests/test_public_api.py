"""The public surface as text, so that every change of it is deliberate.

``tests/assets/public_api.txt`` holds the signature of every public callable, the fields of every
public dataclass and the methods of every public class. After a deliberate change:

    python tests/test_public_api.py > tests/assets/public_api.txt
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eft_fast

SNAPSHOT = Path(__file__).resolve().parent / "assets" / "public_api.txt"


def describe_api() -> str:
    """The whole surface, one parameter or field a line."""
    lines = (line for name in eft_fast.__all__ for line in describe(name, getattr(eft_fast, name)))
    return "\n".join(lines) + "\n"


def describe(name: str, value: Any) -> Iterator[str]:
    if not callable(value):
        yield f"{name}: {type(value).__name__}"
    elif not inspect.isclass(value):
        yield from describe_call(f"def {name}", value)
    else:
        yield from describe_class(name, value)
    yield ""


def describe_class(name: str, kind: type) -> Iterator[str]:
    yield f"class {name}"
    if issubclass(kind, tuple) or dataclasses.is_dataclass(kind):
        # Their signature is that of their fields.
        yield from describe_call("    fields", kind)
    else:
        yield from (f"    {field}: {hint}" for field, hint in own_annotations(kind).items())
        if "__init__" in vars(kind):
            yield from describe_call("    def __init__", kind.__init__)
    for member, value in sorted(own_members(kind).items()):
        if isinstance(value, property):
            hints = getattr(value.fget, "__annotations__", {})  # operator.attrgetter has none
            yield f"    property {member} -> {hints.get('return', '?')}"
        elif isinstance(value, classmethod | staticmethod):
            yield from describe_call(f"    {type(value).__name__} {member}", value.__func__)
        elif inspect.isfunction(value):
            yield from describe_call(f"    def {member}", value)


def own_bases(kind: type) -> list[type]:
    """The class and its bases as far as this package defines them, the last one first."""
    return [base for base in reversed(kind.__mro__) if base.__module__.startswith("eft_fast")]


def own_members(kind: type) -> dict[str, Any]:
    """Public members."""
    found = {name: value for base in own_bases(kind) for name, value in vars(base).items()}
    return {name: value for name, value in found.items() if name[0] != "_"}


def own_annotations(kind: type) -> dict[str, str]:
    """Public attributes that are declared, and their types."""
    found: dict[str, str] = {}
    for base in own_bases(kind):
        found |= vars(base).get("__annotations__", {})
    return {name: hint for name, hint in found.items() if name[0] != "_"}


def describe_call(head: str, function: Any) -> Iterator[str]:
    signature = inspect.signature(function)
    given = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
    given = [each for each in given if each.name[0] != "_"]
    result = signature.return_annotation
    tail = "" if result in (signature.empty, None) else f" -> {result}"
    if not given:
        yield f"{head}(){tail}"
        return
    yield f"{head}("
    margin = " " * (len(head) - len(head.lstrip()))
    is_keyword_only = False
    for each in given:
        if each.kind is each.KEYWORD_ONLY and not is_keyword_only:
            is_keyword_only = True
            yield f"{margin}    *"
        yield f"{margin}    {describe_parameter(each)}"
    yield f"{margin}){tail}"


def describe_parameter(each: inspect.Parameter) -> str:
    stars = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
    # A NamedTuple keeps its strings in ForwardRef.
    hint = getattr(each.annotation, "__forward_arg__", each.annotation)
    kind = "" if each.annotation is each.empty else f": {hint}"
    default = "" if each.default is each.empty else f" = {each.default!r}"
    return f"{stars}{each.name}{kind}{default}"


def test_surface_is_that_of_the_snapshot():
    stored, found = SNAPSHOT.read_text(encoding="utf-8"), describe_api()
    changes = "\n".join(
        difflib.unified_diff(stored.splitlines(), found.splitlines(), "stored", "found", n=3)
    )
    renew = "python tests/test_public_api.py > tests/assets/public_api.txt"
    assert stored == found, f"the public surface changed; if that is meant: {renew}\n{changes}"


def test_names():
    names = eft_fast.__all__
    assert dir(eft_fast) == names == sorted(names)
    assert all(getattr(eft_fast, name) is not None for name in names)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda images, keypoints, *, method="eft": None, ["+    method = 'eft'", "+    *"]),
        (lambda images, keypoints: None, ["    images", "+    keypoints"]),
    ],
)
def test_a_changed_signature_is_seen(other, words):
    before = list(describe("fit", lambda images: None))
    changes = list(difflib.ndiff(before, list(describe("fit", other))))
    assert all(any(word.replace("+", "+ ") in line for line in changes) for word in words)


def test_unknown_name():
    with pytest.raises(AttributeError, match="fit_bacth"):
        eft_fast.fit_bacth  # noqa: B018


def test_import_is_light():
    """Importing the package brings neither torch nor any work."""
    code = "import eft_fast, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


if __name__ == "__main__":
    print(describe_api(), end="")
