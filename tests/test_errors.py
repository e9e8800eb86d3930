"""Sentences about names that do not exist."""

from __future__ import annotations

from eft_fast.errors import did_you_mean, unknown_name


def test_did_you_mean():
    known = ("full", "layer3", "layer4", "Head")
    assert did_you_mean("haed", known) == "; did you mean 'Head'?"
    assert did_you_mean("layer", known).startswith("; did you mean 'layer")
    assert did_you_mean("magic", known) == ""
    assert did_you_mean(None, known) == ""


def test_unknown_name_lists_few_names_and_guesses_among_many():
    few = unknown_name("fit_batch", "mode", "haed", ("full", "head"))
    assert few == "fit_batch: mode must be one of full, head, got 'haed'; did you mean 'head'?"
    many = [f"name{number:02d}" for number in range(20)]
    assert "name19, got" not in unknown_name("f", "x", "name1", many)
    assert "did you mean" in unknown_name("f", "x", "name1", many)
    assert "name00, name01" in unknown_name("f", "x", "zzz", many)
