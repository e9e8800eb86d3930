"""Sentences about names that do not exist: what was expected, what was given, what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

#: Most names that a sentence lists although it has a guess at which one was meant.
_MOST_LISTED: Final = 12
#: Share of letters that a name has to have in common with what was typed.
_CUTOFF: Final = 0.6


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """The end of a sentence about a name that does not exist.

    Args:
        given: What was asked for.
        known: The names that exist.

    Returns:
        ``"; did you mean 'head'?"`` with the closest names, or nothing where none is close.

    Example:
        >>> did_you_mean("haed", ("full", "head"))
        "; did you mean 'head'?"
    """
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(given).lower(), names, n=2, cutoff=_CUTOFF)
    words = " or ".join(repr(names[name]) for name in close)
    return f"; did you mean {words}?" if words else ""


def unknown_name(who: str, what: str, given: object, known: Iterable[str]) -> str:
    """One sentence about a name that does not exist, for a ``ValueError``.

    Args:
        who: The call that was given the name.
        what: What the name is a name of: an argument or a field.
        given: What was asked for.
        known: The names that exist. Where they are many they are listed only if none is close.

    Example:
        >>> unknown_name("fit_batch", "mode", "haed", ("full", "head"))
        "fit_batch: mode must be one of full, head, got 'haed'; did you mean 'head'?"
    """
    return f"{who}: {what} {expected_name(given, known)}"


def expected_name(given: object, known: Iterable[str]) -> str:
    """The part of ``unknown_name`` behind the name of the argument."""
    names = [str(name) for name in known]
    hint = did_you_mean(given, names)
    listed = len(names) <= _MOST_LISTED or not hint
    kinds = f"must be one of {', '.join(names)}" if listed else f"must be one of {len(names)} names"
    return f"{kinds}, got {given!r}{hint}"
