"""Trained regressors out of torch: export, verification, engines and server folders.

Only the export itself needs torch; names load on first use, so that a model can be verified where
torch is not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eft_fast.deploy.onnx_export import ExportConfig as ExportConfig
    from eft_fast.deploy.onnx_export import export_regressor as export_regressor
    from eft_fast.deploy.verify import verify_folder as verify_folder

_HOME = {
    "ExportConfig": "eft_fast.deploy.onnx_export",
    "export_regressor": "eft_fast.deploy.onnx_export",
    "verify_folder": "eft_fast.deploy.verify",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOME:
        raise AttributeError(f"module 'eft_fast.deploy' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
