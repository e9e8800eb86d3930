"""A rig as USD (UsdSkel), by Pixar's ``usd-core``, which the extra ``usd`` installs."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.exports.glb import to_quaternions
from eft_fast.exports.mesh import unit_normals
from eft_fast.exports.rig import JOINT_NAMES, Rig
from eft_fast.files import write_bytes

_ENDINGS: Final = (".usd", ".usda", ".usdc")


def save_rig_usd(path: Path | str, rig: Rig, name: str = "person") -> Path:
    """Write a rig: a SkelRoot with skeleton, skin, blend shapes and an animation.

    y is up, a unit is a metre, and a frame is a time code. Skinning is exact, as in GLB; targets
    are blend shapes of their names.

    Args:
        path: File to write: ``.usda`` is text, ``.usd`` and ``.usdc`` are binary.
        rig: The person.
        name: What the person is called; letters that USD does not take become ``_``.

    Returns:
        The file.

    Raises:
        ModuleNotFoundError: If ``usd-core`` is not installed.
        ValueError: If the ending is another one.
    """
    path = Path(path)
    if path.suffix.lower() not in _ENDINGS:
        raise ValueError(
            f"save_rig_usd: a file ending in {', '.join(_ENDINGS)} expected, got {path.name}"
        )
    pxr = load_usd()
    # The library opens files by their names, and a text or binary one by its ending.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"rig{path.suffix.lower()}"
        stage = pxr.Usd.Stage.CreateNew(str(file))
        _fill(stage, pxr, rig, re.sub(r"^(?=\d)|[^A-Za-z0-9_]", "_", name) or "person")
        stage.GetRootLayer().Save()
        del stage
        write_bytes(path, file.read_bytes())
    return path


def load_usd() -> Any:
    """The package ``pxr`` with the modules that are used here.

    Raises:
        ModuleNotFoundError: If it is not installed.
    """
    try:
        import pxr
        from pxr import Gf, Sdf, Usd, UsdGeom, UsdSkel, Vt  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "USD files need usd-core; install eft-fast[usd], or write glb", name="pxr"
        ) from None
    return pxr


def _fill(stage: Any, pxr: Any, rig: Rig, name: str) -> None:
    frames = len(rig.rotations)
    pxr.UsdGeom.SetStageUpAxis(stage, pxr.UsdGeom.Tokens.y)
    pxr.UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    stage.SetTimeCodesPerSecond(rig.frame_rate)
    stage.SetFramesPerSecond(rig.frame_rate)
    if frames > 1:
        stage.SetStartTimeCode(0)
        stage.SetEndTimeCode(frames - 1)
    root = pxr.UsdSkel.Root.Define(stage, f"/{name}")
    stage.SetDefaultPrim(root.GetPrim())
    root.GetPrim().SetCustomData({"eft_fast": dict(rig.facts())})
    joints = _joint_paths(rig)
    skeleton = pxr.UsdSkel.Skeleton.Define(stage, f"/{name}/skeleton")
    skeleton.CreateJointsAttr(joints)
    skeleton.CreateBindTransformsAttr(_translations(pxr, rig.rest_joints))
    skeleton.CreateRestTransformsAttr(_translations(pxr, rig.local_offsets()))
    mesh = _mesh(stage, pxr, rig, f"/{name}/body")
    for prim in (skeleton.GetPrim(), mesh.GetPrim()):
        binding = pxr.UsdSkel.BindingAPI.Apply(prim)
        binding.CreateSkeletonRel().SetTargets([skeleton.GetPath()])
        binding.CreateAnimationSourceRel().SetTargets([f"/{name}/skeleton/motion"])
    _animate(stage, pxr, rig, f"/{name}/skeleton/motion", joints)


def _joint_paths(rig: Rig) -> list[str]:
    """``pelvis/left_hip/left_knee``: USD tells the tree by the names."""
    paths: list[str] = []
    for label, parent in zip(JOINT_NAMES, rig.parents.tolist(), strict=True):
        paths.append(label if parent < 0 else f"{paths[parent]}/{label}")
    return paths


def _translations(pxr: Any, places: np.ndarray) -> Any:
    matrices = np.tile(np.eye(4), (len(places), 1, 1))
    matrices[:, 3, :3] = places  # USD multiplies rows from the left
    return pxr.Vt.Matrix4dArray([pxr.Gf.Matrix4d(*one.ravel().tolist()) for one in matrices])


def _vectors(pxr: Any, rows: np.ndarray) -> Any:
    return pxr.Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(rows, np.float32))


def _mesh(stage: Any, pxr: Any, rig: Rig, path: str) -> Any:
    mesh = pxr.UsdGeom.Mesh.Define(stage, path)
    positions = rig.rest_vertices.astype(np.float32)
    mesh.CreatePointsAttr(_vectors(pxr, positions))
    mesh.CreateFaceVertexCountsAttr([3] * len(rig.faces))
    mesh.CreateFaceVertexIndicesAttr(
        pxr.Vt.IntArray.FromNumpy(rig.faces.astype(np.int32).reshape(-1))
    )
    mesh.CreateExtentAttr([positions.min(0).tolist(), positions.max(0).tolist()])
    mesh.CreateSubdivisionSchemeAttr(pxr.UsdGeom.Tokens.none)
    mesh.CreateNormalsAttr(_vectors(pxr, unit_normals(positions, rig.faces)))
    mesh.SetNormalsInterpolation(pxr.UsdGeom.Tokens.vertex)
    binding = pxr.UsdSkel.BindingAPI.Apply(mesh.GetPrim())
    binding.CreateJointIndicesPrimvar(False, 4).Set(
        pxr.Vt.IntArray.FromNumpy(rig.joint_idx.astype(np.int32).reshape(-1))
    )
    binding.CreateJointWeightsPrimvar(False, 4).Set(
        pxr.Vt.FloatArray.FromNumpy(rig.joint_weight.astype(np.float32).reshape(-1))
    )
    binding.CreateGeomBindTransformAttr(pxr.Gf.Matrix4d(1))
    if rig.target_names:
        binding.CreateBlendShapesAttr(list(rig.target_names))
        shapes = []
        for label, offsets in zip(rig.target_names, rig.targets, strict=True):
            shape = pxr.UsdSkel.BlendShape.Define(stage, f"{path}/{label}")
            shape.CreateOffsetsAttr(_vectors(pxr, offsets))
            shapes.append(shape.GetPath())
        binding.CreateBlendShapeTargetsRel().SetTargets(shapes)
    return mesh


def _animate(stage: Any, pxr: Any, rig: Rig, path: str, joints: list[str]) -> None:
    motion = pxr.UsdSkel.Animation.Define(stage, path)
    motion.CreateJointsAttr(joints)
    motion.CreateScalesAttr(pxr.Vt.Vec3hArray.FromNumpy(np.ones((len(joints), 3), np.float16)))
    places = np.tile(rig.local_offsets(), (len(rig.rotations), 1, 1))
    places[:, 0] = rig.root_position
    turns, moves = motion.CreateRotationsAttr(), motion.CreateTranslationsAttr()
    weights = None
    if rig.target_names:
        motion.CreateBlendShapesAttr(list(rig.target_names))
        weights = motion.CreateBlendShapeWeightsAttr()
    quaternions = to_quaternions(rig.rotations)
    for frame in range(len(quaternions)):
        # A still holds its values at every time.
        when = pxr.Usd.TimeCode(frame) if len(quaternions) > 1 else pxr.Usd.TimeCode.Default()
        turned = [
            pxr.Gf.Quatf(w, x, y, z) for x, y, z, w in quaternions[frame].astype(float).tolist()
        ]
        turns.Set(pxr.Vt.QuatfArray(turned), when)
        moves.Set(_vectors(pxr, places[frame]), when)
        if weights is not None:
            row = np.ascontiguousarray(rig.target_weights[frame], np.float32)
            weights.Set(pxr.Vt.FloatArray.FromNumpy(row), when)
