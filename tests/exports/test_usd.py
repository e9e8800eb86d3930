"""Rigs as USD, opened again and skinned by Pixar's own library."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from eft_fast.exports.rig import JOINT_NAMES, make_rig
from eft_fast.exports.usd import save_rig_usd

UPRIGHT = np.array([1.0, -1.0, -1.0])


def baked(path, name: str, frame: int) -> np.ndarray:
    """Vertices of a frame as UsdSkel itself skins them."""
    from pxr import Usd, UsdGeom, UsdSkel

    stage = Usd.Stage.Open(str(path))
    assert UsdSkel.BakeSkinning(UsdSkel.Root(stage.GetPrimAtPath(f"/{name}")))
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath(f"/{name}/body"))
    return np.array(mesh.GetPointsAttr().Get(frame))


@pytest.mark.parametrize("ending", ["usd", "usda", "usdc"])
@pytest.mark.parametrize("shape_targets", [False, True])
def test_a_still_is_the_body(make_fits, tmp_path, ending, shape_targets):
    pytest.importorskip("pxr", reason="the extra usd is not installed")
    fits = make_fits(1)
    rig = make_rig(fits, shape_targets=shape_targets)
    path = save_rig_usd(tmp_path / f"body.{ending}", rig, "1 runner")
    assert (path.read_bytes()[:5] == b"#usda") == (ending == "usda")
    expected = fits.vertices()[0].numpy() * UPRIGHT
    np.testing.assert_allclose(baked(path, "_1_runner", 0), expected, atol=2e-6)


def test_a_motion_is_the_body_in_every_frame(make_fits, tmp_path):
    pytest.importorskip("pxr", reason="the extra usd is not installed")
    from pxr import Usd, UsdGeom, UsdSkel

    fits = make_fits(3)
    rig = make_rig(fits, is_one_person=True, frame_rate=24)
    path = save_rig_usd(tmp_path / "walk.usd", rig, "walk")
    moved = (fits.cam_transl() - fits.cam_transl()[:1]).numpy()
    for frame in range(3):
        expected = (fits.vertices()[frame].numpy() + moved[frame]) * UPRIGHT
        error = np.linalg.norm(baked(path, "walk", frame) - expected, axis=1).max()
        assert error <= rig.corrective_error_m + 5e-6
    stage = Usd.Stage.Open(str(path))
    assert (stage.GetTimeCodesPerSecond(), stage.GetEndTimeCode()) == (24, 2)
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    skeleton = UsdSkel.Skeleton(stage.GetPrimAtPath("/walk/skeleton"))
    names = [joint.split("/")[-1] for joint in skeleton.GetJointsAttr().Get()]
    assert names == list(JOINT_NAMES)
    assert stage.GetDefaultPrim().GetCustomDataByKey("eft_fast")["body"] == "open-1"


def test_refuses_in_one_sentence(make_fits, tmp_path, monkeypatch):
    rig = make_rig(make_fits(1))
    with pytest.raises(ValueError, match=r"ending in .usd, .usda, .usdc expected, got a.glb"):
        save_rig_usd(tmp_path / "a.glb", rig)
    monkeypatch.setitem(sys.modules, "pxr", None)
    with pytest.raises(ModuleNotFoundError, match=r"USD files need usd-core; install eft-fast"):
        save_rig_usd(tmp_path / "a.usd", rig)
    assert not list(tmp_path.iterdir())
