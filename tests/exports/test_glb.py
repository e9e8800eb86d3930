"""Rigs as GLB, opened again by pygltflib and skinned by hand from what the file holds."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from eft_fast.exports.glb import save_rig_glb, to_quaternions
from eft_fast.exports.rig import JOINT_NAMES, make_rig
from eft_fast.geometry.rotations import axis_angle_to_matrix

REPO = Path(__file__).resolve().parents[2]
UPRIGHT = np.array([1.0, -1.0, -1.0])


class Reader:
    """What a program that knows glTF alone makes of a file."""

    def __init__(self, path: Path) -> None:
        pygltflib = pytest.importorskip("pygltflib", reason="pygltflib is not installed")
        self.gltf = pygltflib.GLTF2().load(str(path))
        self.binary = self.gltf.binary_blob()

    def array(self, index: int) -> np.ndarray:
        accessor = self.gltf.accessors[index]
        view = self.gltf.bufferViews[accessor.bufferView]
        kind = {5126: "<f4", 5125: "<u4", 5121: "u1"}[accessor.componentType]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}[accessor.type]
        data = self.binary[view.byteOffset : view.byteOffset + view.byteLength]
        return np.frombuffer(data, kind).reshape(accessor.count, width)

    def skinned(self, frame: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Vertices and joints of a frame, by morph targets and linear blend skinning."""
        gltf = self.gltf
        mesh, skin = gltf.meshes[gltf.nodes[0].mesh], gltf.skins[gltf.nodes[0].skin]
        local = {
            index: [np.array(node.translation), np.array(node.rotation)]
            for index, node in enumerate(gltf.nodes)
            if node.mesh is None
        }
        weights = np.array(mesh.weights or [])
        for channel in gltf.animations[0].channels if gltf.animations else []:
            values = self.array(gltf.animations[0].samplers[channel.sampler].output)
            if channel.target.path == "weights":
                weights = values.reshape(-1, len(weights))[frame]
            else:
                local[channel.target.node][channel.target.path == "rotation"] = values[frame]
        parents = {child: index for index in local for child in gltf.nodes[index].children or []}
        world: dict[int, np.ndarray] = {}

        def placed(index: int) -> np.ndarray:
            if index not in world:
                own = np.eye(4)
                own[:3, :3] = Rotation.from_quat(local[index][1]).as_matrix()
                own[:3, 3] = local[index][0]
                world[index] = placed(parents[index]) @ own if index in parents else own
            return world[index]

        primitive = mesh.primitives[0]
        points = self.array(primitive.attributes.POSITION).astype(float)
        for weight, target in zip(weights, primitive.targets or [], strict=True):
            points = points + weight * self.array(target["POSITION"])
        binds = self.array(skin.inverseBindMatrices).reshape(-1, 4, 4).transpose(0, 2, 1)
        bones = np.stack(
            [placed(joint) @ bind for joint, bind in zip(skin.joints, binds, strict=True)]
        )
        index = self.array(primitive.attributes.JOINTS_0)
        share = self.array(primitive.attributes.WEIGHTS_0)
        homogeneous = np.concatenate([points, np.ones((len(points), 1))], 1)
        blended = np.einsum("vk,vkab,vb->va", share, bones[index], homogeneous)
        return blended[:, :3], np.stack([placed(joint)[:3, 3] for joint in skin.joints])


def check_by_khronos(path: Path) -> None:
    """The validator of the Khronos Group: no error and no warning."""
    modules = REPO / "build" / "node_modules"
    if shutil.which("node") is None or not (modules / "gltf-validator").is_dir():
        pytest.skip("gltf-validator is not there: npm install --prefix build gltf-validator")
    code = (
        "const v = require(process.argv[1] + '/gltf-validator');"
        "v.validateBytes(new Uint8Array(require('fs').readFileSync(process.argv[2])))"
        ".then(r => console.log(JSON.stringify(r.issues)))"
    )
    done = subprocess.run(
        ["node", "-e", code, str(modules), str(path)], capture_output=True, text=True, check=True
    )
    issues = json.loads(done.stdout)
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues["messages"][:5]


@pytest.mark.parametrize("shape_targets", [False, True])
def test_a_still_is_the_body(make_fits, tmp_path, shape_targets):
    """With its one corrective target a posed body is exact to rounding."""
    fits = make_fits(1)
    rig = make_rig(fits, shape_targets=shape_targets)
    reader = Reader(save_rig_glb(tmp_path / "body.glb", rig, "runner"))
    vertices, joints = reader.skinned()
    np.testing.assert_allclose(vertices, fits.vertices()[0].numpy() * UPRIGHT, atol=2e-6)
    np.testing.assert_allclose(joints, fits.joints3d("smpl24")[0].numpy() * UPRIGHT, atol=2e-6)
    gltf = reader.gltf
    assert [gltf.nodes[joint].name for joint in gltf.skins[0].joints] == list(JOINT_NAMES)
    assert not gltf.animations
    names = gltf.meshes[0].extras["targetNames"]
    assert names == [f"shape_{k}" for k in range(1, 11)] * shape_targets + ["pose_corrective_1"]
    facts = gltf.asset.extras
    assert facts["shape"] == ("targets shape_1 to shape_10" if shape_targets else "baked")
    assert facts["pose_corrective_error_mm"] < 1e-4
    weights = reader.array(gltf.meshes[0].primitives[0].attributes.WEIGHTS_0)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)


def test_without_correctives_the_loss_is_theirs(make_fits, tmp_path):
    """What the documentation says is lost when the targets are turned off."""
    fits = make_fits(1)
    rig = make_rig(fits)
    reader = Reader(save_rig_glb(tmp_path / "body.glb", rig))
    reader.gltf.meshes[0].weights = [0.0]
    lost = np.linalg.norm(reader.skinned()[0] - fits.vertices()[0].numpy() * UPRIGHT, axis=1)
    offsets = np.linalg.norm(rig.targets[0], axis=1)
    assert 1e-3 < lost.max() <= offsets.max() + 1e-5


def test_a_motion_is_the_body_in_every_frame(make_fits, tmp_path):
    """Smooth motion: few targets, within the error that the file states."""
    fits = make_fits(1)
    steps = torch.linspace(0, 2, 40)[:, None, None] * (0.3 * torch.randn(1, 24, 3))
    fits = fits[[0] * 40]
    turns = fits.params.full_pose @ axis_angle_to_matrix(steps)
    fits = replace(
        fits,
        params=replace(fits.params, global_orient=turns[:, :1], body_pose=turns[:, 1:]),
        bbox_center=fits.bbox_center + torch.arange(40)[:, None] * torch.tensor([5.0, 0]),
    )
    rig = make_rig(fits, is_one_person=True, frame_rate=25)
    path = save_rig_glb(tmp_path / "walk.glb", rig)
    reader = Reader(path)
    assert len(rig.targets) < 20
    moved = (fits.cam_transl() - fits.cam_transl()[:1]).numpy()
    assert moved[-1, 0] > 0.5
    for frame in (0, 17, 39):
        expected = (fits.vertices()[frame].numpy() + moved[frame]) * UPRIGHT
        error = np.linalg.norm(reader.skinned(frame)[0] - expected, axis=1).max()
        assert error <= rig.corrective_error_m + 5e-6
    assert rig.corrective_error_m < 1e-3
    sampler = reader.gltf.animations[0].samplers[0]
    times = reader.array(sampler.input)[:, 0]
    np.testing.assert_allclose(times, np.arange(40) / 25, atol=1e-6)
    check_by_khronos(path)


@pytest.mark.parametrize("shape_targets", [False, True])
def test_khronos_validator_finds_nothing(make_fits, tmp_path, shape_targets):
    rig = make_rig(make_fits(1), shape_targets=shape_targets)
    check_by_khronos(save_rig_glb(tmp_path / "body.glb", rig))


def test_khronos_validator_sees_a_fault(make_fits, tmp_path):
    rig = make_rig(make_fits(1))
    broken = replace(rig, joint_weight=rig.joint_weight * 0.5)
    with pytest.raises(AssertionError, match="NON_NORMALIZED"):
        check_by_khronos(save_rig_glb(tmp_path / "body.glb", broken))


def test_feet_stand_on_the_ground(make_fits, tmp_path):
    fits = make_fits(5)
    rig = make_rig(fits, is_one_person=True, feet_on_ground=True)
    reader = Reader(save_rig_glb(tmp_path / "walk.glb", rig))
    lowest = [reader.skinned(frame)[0][:, 1].min() for frame in range(5)]
    assert abs(min(lowest)) < 2e-3  # the correctives of five random poses are cut
    assert min(lowest) < max(lowest) - 1e-3


def test_quaternions_do_not_jump():
    """A whole turn about one axis stays on one side of zero and comes out as its negative."""
    angle = torch.linspace(0, 2 * np.pi, 50, dtype=torch.float64)
    vectors = torch.zeros(50, 24, 3, dtype=torch.float64)
    vectors[:, 3, 1] = angle
    found = to_quaternions(axis_angle_to_matrix(vectors).numpy())
    assert (np.abs(np.diff(found, axis=0)) < 0.1).all()
    np.testing.assert_allclose(found[-1, 3], -found[0, 3], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": [0, 0]}, "got 2 rows; give one, or say is_one_person=True"),
        ({"rows": []}, "got 0 rows"),
        ({"frame_rate": 0}, "frame_rate must be positive, got 0"),
        ({"nan": True}, "must be finite, got NaN"),
    ],
)
def test_refuses_in_one_sentence(make_fits, change, words):
    fits = make_fits(1)
    fits = fits[change.get("rows", [0])]
    if change.get("nan"):
        fits.params.betas[0, 3] = float("nan")
    with pytest.raises(ValueError, match=words):
        make_rig(fits, frame_rate=change.get("frame_rate", 30))
