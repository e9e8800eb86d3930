"""The operators: SMPL meshes and points, the fitting loop's loss, and a rasteriser.

Only this package touches the native library and ``torch.ops.eft_fast``.
"""

from eft_fast.ops._load import build_info, choose_simd, has_cuda
from eft_fast.ops.devices import find_device
from eft_fast.ops.loss import (
    KeypointGradients,
    KeypointLoss,
    LimbTargets,
    LossWeights,
    keypoint_gradients,
    keypoint_loss,
    make_limb_targets,
    pack_full_camera,
)
from eft_fast.ops.map import MapEvaluation, MapSolution, MapState, map_evaluate, map_solve
from eft_fast.ops.plans import MeshPlan, PointsPlan
from eft_fast.ops.priors import body_priors, use_native_priors
from eft_fast.ops.raster import Raster, rasterize
from eft_fast.ops.smpl import smpl_mesh, smpl_points

__all__ = [
    "KeypointGradients",
    "KeypointLoss",
    "LimbTargets",
    "LossWeights",
    "MapEvaluation",
    "MapSolution",
    "MapState",
    "MeshPlan",
    "PointsPlan",
    "Raster",
    "body_priors",
    "build_info",
    "choose_simd",
    "find_device",
    "has_cuda",
    "keypoint_gradients",
    "keypoint_loss",
    "make_limb_targets",
    "map_evaluate",
    "map_solve",
    "pack_full_camera",
    "rasterize",
    "smpl_mesh",
    "smpl_points",
    "use_native_priors",
]
