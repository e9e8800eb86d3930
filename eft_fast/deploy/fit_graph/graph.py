"""A network and the fit behind it in one model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from eft_fast.body.smpl import Smpl
from eft_fast.conventions import NUM_JOINTS
from eft_fast.deploy.body_graph import BodyGraph
from eft_fast.deploy.fit_graph.body import PointsGraph, Skeleton
from eft_fast.deploy.fit_graph.energy import State
from eft_fast.deploy.fit_graph.posterior import joint_sigma
from eft_fast.deploy.fit_graph.problem import make_problem
from eft_fast.deploy.fit_graph.reading import Reading, show_keypoints, who_reads
from eft_fast.deploy.fit_graph.stages import Fit, first_fit, improve
from eft_fast.deploy.onnx_builder import FLOAT, GraphBuilder, Value, add_constants
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_rules import ARM, limb_pairs
from eft_fast.serving.fit_card import INPUTS
from eft_fast.serving.fitting.asset import FitAsset

#: Before the names of the network's own answers among the outputs.
INIT: Final = "init_"
#: Meaning of each output.
UNITS: Final = {
    "rotmat": "rotation of each joint relative to its parent; joint 0: body to camera",
    "betas": "shape coefficients",
    "cam": "s, tx, ty of the weak camera that agrees with the pinhole in the plane of the root",
    "keypoints_2d": "the body's keypoints as the pinhole sees them, [-1, 1] of the crop",
    "camera": "f_x, f_y, c_x, c_y of the pinhole as seen in the crop: given, or assumed",
    "transl": "where the body's origin stands before the pinhole, metres",
    "joint_sigma_mm": "radius about each joint, both about the pelvis, that holds the truth with "
    "68 %, millimetres",
    "energy": "what was minimised",
    "init_energy": "the same of the network's answer",
    "tension": "energy over the number of data, about 1 where model and data agree",
    "keypoint_weight": "what robust weights left of each keypoint, 1 where they were not used",
    "hypothesis": "1 where taken: answer turned round, a bone flipped in depth, arms exchanged",
    "converged": "1: the last step promised less than the tolerance",
    "init_rotmat": "the network's answer",
    "init_betas": "the network's answer",
    "init_cam": "the network's answer",
    "confidence": "of the network's answer: probability that a joint lies within 100 mm",
    "joints": "points of the body, metres, about its own origin",
    "vertices": "mesh, metres, about the body's own origin",
}


@dataclass(frozen=True, eq=False)
class FitOptions:
    """What the fit reads and gives.

    Attributes:
        joint_set: Of the keypoints.
        config: Options of the fit.
        joints: Joint set of the output ``joints``; empty: there is none.
        mesh: Body of the output ``vertices``; None: there is none.
        reading: Of a network that reads keypoints; None: it sees the picture alone.
    """

    joint_set: str
    config: MapConfig
    joints: str = ""
    mesh: Smpl | None = None
    reading: Reading | None = None


def add_fit(model: Any, asset: FitAsset, options: FitOptions) -> dict[str, list[int]]:
    """Put the fit behind a network, in place.

    Args:
        model: The ``onnx.ModelProto`` of a network whose outputs are called ``init_rotmat``,
            ``init_betas``, ``init_cam`` and perhaps ``confidence``. One that reads keypoints has
            an input ``given`` beside the picture.
        asset: Body and error covariance.
        options: What it reads and gives.

    Returns:
        The outputs and their shapes behind the batch.
    """
    import onnx

    graph, count = GraphBuilder("fit_"), len(find_joint_set(options.joint_set))
    if options.reading is not None:
        show_keypoints(model, options.reading, options.joint_set)
    outputs = _write(graph, asset, options)
    shapes = {"keypoints": (count, 3), "sigma": (count,), "pinhole": (4,)}
    info = onnx.helper.make_tensor_value_info
    for name in INPUTS:
        model.graph.input.append(info(name, FLOAT, ["batch", *shapes[name]]))
    given = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]
             for value in model.graph.output}  # fmt: skip
    kept = list(model.graph.output)
    del model.graph.output[:]
    found: dict[str, list[int]] = {}
    for name, (value, shape) in outputs.items():
        # Shapes are lost inside of loops; the reshape says them again.
        named = value.reshape(-1, *shape) if shape else value.reshape(-1)
        graph.nodes.append(onnx.helper.make_node("Identity", [named.name], [name]))
        model.graph.output.append(info(name, FLOAT, ["batch", *shape]))
        found[name] = list(shape)
    model.graph.output.extend(kept)
    model.graph.node.extend(graph.nodes)
    add_constants(model, graph)
    return found | given


def _write(
    graph: GraphBuilder, asset: FitAsset, options: FitOptions
) -> dict[str, tuple[Value, tuple[int, ...]]]:
    """The outputs with their shapes."""
    config, points = options.config, find_joint_set(options.joint_set)
    assert config.distance is not None, "the weak camera is not written"
    answer = State(*(Value(graph, INIT + name) for name in ("rotmat", "betas", "cam")))
    body, joints = PointsGraph(asset.points(points)), PointsGraph(asset.points("smpl24"))
    keypoints, sigma, pinhole = (Value(graph, name) for name in INPUTS)
    reading = options.reading
    problem = make_problem(
        body,
        asset.precision,
        answer,
        keypoints,
        sigma,
        pinhole,
        config.distance,
        None if reading is None else (who_reads(graph), reading.precision),
    )
    plain, init_energy = first_fit(problem, problem.frame > 0.0, config)
    fit = improve(problem, plain, limb_pairs(points.names, ARM), config)
    final = fit.problem(problem)
    radius = joint_sigma(final, fit.state, fit.energy, joints)
    posed = body.pose(fit.betas, fit.rotmat)
    seen = final.see(fit.cam, posed.points)
    camera = graph.concat(2, problem.focal, problem.middle)
    transl = graph.concat(2, seen.transl, seen.depth)
    width = len(points)
    found: dict[str, tuple[Value, tuple[int, ...]]] = {
        "rotmat": (fit.rotmat, (NUM_JOINTS, 3, 3)),
        "betas": (fit.betas, (10,)),
        "cam": (fit.cam, (3,)),
        "keypoints_2d": (seen.image, (width, 2)),
        "camera": (camera, (4,)),
        "transl": (transl, (3,)),
        "joint_sigma_mm": (radius, (NUM_JOINTS,)),
        "energy": (fit.energy, ()),
        "init_energy": (init_energy, ()),
        "tension": (final.tension(fit.energy), ()),
        "keypoint_weight": (fit.factor, (width,)),
        "hypothesis": (fit.told, (3,)),
        "converged": ((~fit.is_open).to(FLOAT), ()),
    }
    if options.joints:
        placed = PointsGraph(asset.points(options.joints)).pose(fit.betas, fit.rotmat).points
        found["joints"] = (placed, (len(find_joint_set(options.joints)), 3))
    if options.mesh is not None:
        vertices = _vertices(options.mesh, fit, posed.skeleton)
        found["vertices"] = (vertices, (len(options.mesh.v_template), 3))
    return found


def _vertices(mesh: Smpl, fit: Fit, skeleton: Skeleton) -> Value:
    """The mesh; the formulas are those of ``body_graph``."""
    graph = fit.betas.graph
    part = BodyGraph.of(mesh, "smpl24", with_vertices=True)
    basis, weights = part.mesh_basis.numpy(), part.weights.numpy()
    turned = (fit.rotmat.cut(1, 1, NUM_JOINTS) - np.eye(3)).reshape(-1, 9 * (NUM_JOINTS - 1))
    rest_vertices = (graph.concat(1, fit.betas, turned) @ basis[1:] + basis[0]).reshape(
        -1, len(weights), 3, 1
    )
    rest = fit.betas @ part.rest_basis.numpy() + part.rest_base.numpy()
    turned_rest = (skeleton.world @ rest.reshape(-1, NUM_JOINTS, 3, 1)).reshape(-1, NUM_JOINTS, 3)
    shift = (skeleton.joints - turned_rest).widen(3)
    transforms = graph.concat(3, skeleton.world, shift).reshape(-1, NUM_JOINTS, 12)
    blended = (graph.const(weights) @ transforms).reshape(-1, len(weights), 3, 4)
    placed: Value = blended.cut(3, 0, 3) @ rest_vertices + blended.cut(3, 3, 4)
    return placed
