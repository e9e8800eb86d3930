"""Fitted bodies as files of other programs: meshes, and rigs with skin, joints and motion.

One file is one person: of a still picture a posed rig, of a track over the frames of a video its
motion. Files are upright, y up; metres, but for BVH, which is in centimetres.
"""

from eft_fast.exports.mesh import save_mesh
from eft_fast.exports.rig import Rig, make_rig
from eft_fast.exports.write import BODY_FORMATS, BodyOptions, write_bodies

__all__ = ["BODY_FORMATS", "BodyOptions", "Rig", "make_rig", "save_mesh", "write_bodies"]
