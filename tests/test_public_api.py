"""The exported names, as a list, so that an addition is a deliberate change."""

from __future__ import annotations

import subprocess
import sys

import pytest

import eft_fast

NAMES = [
    "EftConfig",
    "FitResult",
    "PhotoCameras",
    "Regressor",
    "RegressorOutput",
    "Smpl",
    "SmplifyConfig",
    "__version__",
    "fit_batch",
    "fit_stream",
    "fit_subjects",
    "fit_views",
    "load_body",
    "load_regressor",
]


def test_names():
    assert eft_fast.__all__ == NAMES
    assert dir(eft_fast) == NAMES
    assert all(getattr(eft_fast, name) is not None for name in NAMES)


def test_unknown_name():
    with pytest.raises(AttributeError, match="fit_bacth"):
        eft_fast.fit_bacth  # noqa: B018


def test_import_is_light():
    """Importing the package brings neither torch nor any work."""
    code = "import eft_fast, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
