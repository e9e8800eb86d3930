"""Synthetic training pairs: rendered people with pose, shape, camera and keypoints known.

``Renderer.render(i)`` is image i of a split; ``render_shards`` writes a set for training and
``write_set`` one that other programs read.
"""

from __future__ import annotations

from eft_fast.synth.config import CameraConfig, PhotoConfig, PoseConfig, SynthConfig
from eft_fast.synth.dataset import SynthArrays, SynthJob, load_shards, render_shards, stack_samples
from eft_fast.synth.export import WrittenSet, load_set, write_set
from eft_fast.synth.landmarks import LANDMARKS, body_landmarks
from eft_fast.synth.motion import PosePool, load_motion, sample_prior_poses
from eft_fast.synth.render import Renderer, make_renderer
from eft_fast.synth.sample import SynthSample

__all__ = [
    "LANDMARKS",
    "CameraConfig",
    "PhotoConfig",
    "PoseConfig",
    "PosePool",
    "Renderer",
    "SynthArrays",
    "SynthConfig",
    "SynthJob",
    "SynthSample",
    "WrittenSet",
    "body_landmarks",
    "load_motion",
    "load_set",
    "load_shards",
    "make_renderer",
    "render_shards",
    "sample_prior_poses",
    "stack_samples",
    "write_set",
]
