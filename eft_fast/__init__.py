"""Exemplar Fine-Tuning of human bodies, batched, open and fast.

Names are loaded on first use, so that ``import eft_fast`` and ``import eft_fast.serving`` stay
light and never import torch by themselves.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eft_fast.api import fit_batch as fit_batch
    from eft_fast.api import fit_stream as fit_stream
    from eft_fast.body import load_body as load_body
    from eft_fast.body.smpl import Smpl as Smpl
    from eft_fast.eft.config import EftConfig as EftConfig
    from eft_fast.map_fit.config import MapConfig as MapConfig
    from eft_fast.models import load_regressor as load_regressor
    from eft_fast.models.base import Regressor as Regressor
    from eft_fast.models.base import RegressorOutput as RegressorOutput
    from eft_fast.result import FitResult as FitResult
    from eft_fast.smplify.config import SmplifyConfig as SmplifyConfig
    from eft_fast.smplify.multiview import PhotoCameras as PhotoCameras
    from eft_fast.smplify.multiview import fit_views as fit_views
    from eft_fast.smplify.shared_shape import fit_subjects as fit_subjects

_HOME = {
    "EftConfig": "eft_fast.eft.config",
    "FitResult": "eft_fast.result",
    "PhotoCameras": "eft_fast.smplify.multiview",
    "Regressor": "eft_fast.models.base",
    "RegressorOutput": "eft_fast.models.base",
    "Smpl": "eft_fast.body.smpl",
    "MapConfig": "eft_fast.map_fit.config",
    "SmplifyConfig": "eft_fast.smplify.config",
    "fit_batch": "eft_fast.api",
    "fit_stream": "eft_fast.api",
    "fit_subjects": "eft_fast.smplify.shared_shape",
    "fit_views": "eft_fast.smplify.multiview",
    "load_body": "eft_fast.body",
    "load_regressor": "eft_fast.models",
}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name == "__version__":
        from importlib.metadata import version

        return version("eft-fast")
    if name not in _HOME:
        raise AttributeError(f"module 'eft_fast' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
