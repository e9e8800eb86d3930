"""The same body in every package that is installed: smplx, body-models, smplfitter.

All load one exported file of the open body, so every package computes the same numbers, and
correctness is checked before anything is timed.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eft_fast.body.model_io import load_arrays
from eft_fast.body.plan import PointRows
from eft_fast.body.smpl import Smpl

PEERS = ("smplx", "smplx-compiled", "body-models", "smplfitter")
#: From betas [B,10], axis-angle pose [B,24,3] and transl [B,3] to positions.
Forward = Callable[[Tensor, Tensor, Tensor], Tensor]


def installed() -> list[str]:
    """Peers that this environment can import."""
    modules = {"smplx": "smplx", "smplx-compiled": "smplx"}
    modules |= {"body-models": "body_models", "smplfitter": "smplfitter"}
    return [peer for peer in PEERS if importlib.util.find_spec(modules[peer]) is not None]


#: Peers of the pytest suites: compiling smplx for every size takes minutes, compare.py does it.
QUICK = [peer for peer in installed() if peer != "smplx-compiled"]


@lru_cache(maxsize=1)
def body() -> Any:
    """The open body."""
    return Smpl(load_arrays("open"))


@lru_cache(maxsize=1)
def exported() -> Path:
    """A folder with the open body as each peer wants it named."""
    folder = Path(tempfile.mkdtemp(prefix="eft_fast_bench_"))
    body().export_smplx(folder / "SMPL_NEUTRAL.pkl")
    shutil.copy(folder / "SMPL_NEUTRAL.pkl", folder / "basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl")
    # smplfitter asks for a child template; zeros are its own placeholder for none.
    np.save(folder / "kid_template.npy", np.zeros_like(body().arrays.v_template))
    return folder


@dataclass(frozen=True)
class Parts:
    """Points split into kinematic joints, single vertices and regressed rows, as EFT's code does.

    Attributes:
        vertices: Picked vertices.
        regressor: Dense rows over all vertices.
        order: Index of each point among 24 joints, then the vertices, then the rows.
    """

    vertices: list[int]
    regressor: Tensor
    order: Tensor


def split_points(rows: PointRows, num_vertices: int) -> Parts:
    """Find the distinct sources of points made of joints or of vertices."""
    vertices: list[int] = []
    dense: list[dict[int, float]] = []
    where: list[tuple[str, int]] = []
    for joints, picks in zip(rows.joints, rows.vertices, strict=True):
        if joints and picks:
            raise ValueError("split_points: joints or vertices expected, got a mixture")
        if joints:
            ((joint, factor),) = joints.items()
            if factor != 1:
                raise ValueError(f"split_points: whole joints expected, got a factor {factor}")
            where.append(("joint", joint))
        elif len(picks) == 1:
            (vertex,) = picks
            vertices += [] if vertex in vertices else [vertex]
            where.append(("vertex", vertices.index(vertex)))
        else:
            row = dict(picks)
            dense += [] if row in dense else [row]
            where.append(("row", dense.index(row)))
    start = {"joint": 0, "vertex": 24, "row": 24 + len(vertices)}
    regressor = torch.zeros(len(dense), num_vertices)
    for k, row in enumerate(dense):
        regressor[k, list(row)] = torch.tensor(list(row.values()))
    order = torch.tensor([start[kind] + index for kind, index in where])
    return Parts(vertices, regressor, order)


@lru_cache(maxsize=1)
def _smplx_model() -> Any:
    import smplx

    skip = ("betas", "body_pose", "global_orient", "transl")
    path = str(exported() / "SMPL_NEUTRAL.pkl")
    return smplx.SMPL(path, **{f"create_{name}": False for name in skip})


@lru_cache(maxsize=1)
def _body_models_model() -> Any:
    from body_models.smpl.torch import SMPL

    return SMPL(model_path=exported() / "SMPL_NEUTRAL.pkl")


def _call_smplx(betas: Tensor, pose: Tensor, transl: Tensor) -> Any:
    return _smplx_model()(
        betas=betas, body_pose=pose[:, 1:].flatten(1), global_orient=pose[:, 0], transl=transl
    )


def make_mesh(peer: str) -> Forward:
    """All vertices by a peer."""
    if peer == "smplx":
        return lambda betas, pose, transl: _call_smplx(betas, pose, transl).vertices
    if peer == "smplx-compiled":
        return torch.compile(make_mesh("smplx"), dynamic=False)
    if peer == "body-models":
        model = _body_models_model()
        return lambda betas, pose, transl: model.forward_vertices(
            pose[:, 1:], pelvis_rotation=pose[:, 0], shape=betas, global_translation=transl
        )
    from smplfitter.pt import BodyModel

    fitter = BodyModel("smpl", "neutral", model_root=str(exported()))
    return lambda betas, pose, transl: fitter(pose, betas, transl)["vertices"]


def make_points(peer: str, rows: PointRows) -> Forward:
    """Points by a peer, in the fastest way that its public interface offers."""
    parts = split_points(rows, len(body().arrays.v_template))
    if peer == "smplx":

        def by_smplx(betas: Tensor, pose: Tensor, transl: Tensor) -> Tensor:
            out = _call_smplx(betas, pose, transl)
            extra = torch.einsum("kv,bvc->bkc", parts.regressor, out.vertices)
            picks = out.vertices[:, parts.vertices]
            return torch.cat([out.joints[:, :24], picks, extra], 1)[:, parts.order]

        return by_smplx
    if peer == "smplx-compiled":
        return torch.compile(make_points("smplx", rows), dynamic=False)
    if peer == "body-models":
        return _points_by_body_models(parts)
    return _points_by_smplfitter(parts)


def make_points_of_matrices(rows: PointRows) -> Callable[[Tensor, Tensor], Tensor]:
    """Points from betas [B,10] and rotation matrices [B,24,3,3] through smplx's whole mesh."""
    parts = split_points(rows, len(body().arrays.v_template))
    model = _smplx_model()

    def run(betas: Tensor, rotmat: Tensor) -> Tensor:
        out = model(
            betas=betas,
            body_pose=rotmat[:, 1:],
            global_orient=rotmat[:, :1],
            transl=torch.zeros_like(betas[:, :3]),
            pose2rot=False,
        )
        extra = torch.einsum("kv,bvc->bkc", parts.regressor, out.vertices)
        picks = out.vertices[:, parts.vertices]
        return torch.cat([out.joints[:, :24], picks, extra], 1)[:, parts.order]

    return run


def _points_by_body_models(parts: Parts) -> Forward:
    """Its prepared point regressor for vertices and rows, its skeleton for joints."""
    model = _body_models_model()
    picks = torch.zeros(len(parts.vertices), parts.regressor.shape[1])
    picks[range(len(parts.vertices)), parts.vertices] = 1
    prepared = model.prepare_point_regressor(torch.cat([picks, parts.regressor]))

    def run(betas: Tensor, pose: Tensor, transl: Tensor) -> Tensor:
        inputs = {"pelvis_rotation": pose[:, 0], "shape": betas, "global_translation": transl}
        joints = model.forward_skeleton(pose[:, 1:], **inputs)[..., :3, 3]
        points = model.forward_points(pose[:, 1:], point_regressor=prepared, **inputs)
        return torch.cat([joints, points], 1)[:, parts.order]

    return run


def _points_by_smplfitter(parts: Parts) -> Forward:
    """Its vertex subset: only the vertices that some point needs."""
    from smplfitter.pt import BodyModel

    used = sorted({*parts.vertices, *parts.regressor.any(0).nonzero().flatten().tolist()})
    fitter = BodyModel("smpl", "neutral", model_root=str(exported()), vertex_subset=np.array(used))
    picks = [used.index(i) for i in parts.vertices]
    regressor = parts.regressor[:, used]

    def run(betas: Tensor, pose: Tensor, transl: Tensor) -> Tensor:
        out = fitter(pose, betas, transl)
        extra = torch.einsum("kv,bvc->bkc", regressor, out["vertices"])
        return torch.cat([out["joints"], out["vertices"][:, picks], extra], 1)[:, parts.order]

    return run
