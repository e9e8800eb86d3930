"""Fixtures of the direct fit."""

from __future__ import annotations

import pytest

from eft_fast.body import load_body
from eft_fast.body.smpl import Smpl
from tests.map_fit.people import People, make_people


@pytest.fixture(scope="session")
def body() -> Smpl:
    """The body that ships with the package."""
    return load_body()


@pytest.fixture(scope="session")
def people(body: Smpl) -> People:
    """Sixteen people without noise."""
    return make_people(body, 16)
