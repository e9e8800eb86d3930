"""Exported regressors at work, without torch: photos and boxes in, bodies out.

Needs numpy, Pillow and one runtime: ONNX Runtime (extra ``onnx`` or ``onnx-gpu``) or OpenVINO.
"""

from __future__ import annotations

from eft_fast.serving.base import Session
from eft_fast.serving.card import ModelCard, load_card
from eft_fast.serving.cpus import usable_cpus
from eft_fast.serving.detector import FoundPeople, PersonFinder
from eft_fast.serving.fit_model import FitModel
from eft_fast.serving.fitting.record import PhotoFits
from eft_fast.serving.predictor import PhotoPredictions, Predictor
from eft_fast.serving.session import open_session

__all__ = [
    "FitModel",
    "FoundPeople",
    "ModelCard",
    "PersonFinder",
    "PhotoFits",
    "PhotoPredictions",
    "Predictor",
    "Session",
    "load_card",
    "open_session",
    "usable_cpus",
]
