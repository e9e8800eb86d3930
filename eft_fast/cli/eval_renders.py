"""``eft-fast eval renders``: a regressor alone on rendered people that no training saw."""

from __future__ import annotations

import argparse
from pathlib import Path

from eft_fast.cli.output import UsageError, emit, note

#: People by default: as many as the card of the shipped regressor was measured on.
_COUNT = 1000


def run_renders(options: argparse.Namespace) -> int:
    """Render the set, or take the one that is there, and print the errors of the regressor."""
    count = _COUNT if options.count is None else options.count
    if count < 1:
        raise UsageError(f"eft-fast eval: --count must be at least 1, got {count}")
    from eft_fast.body import load_body
    from eft_fast.models import load_regressor
    from eft_fast.models.open_regressor import OpenRegressor
    from eft_fast.synth import SynthConfig, SynthJob, load_shards, render_shards
    from eft_fast.training.measure import score_renders

    regressor = load_regressor(options.regressor)
    if not isinstance(regressor, OpenRegressor):
        raise UsageError(
            f"eft-fast eval: renders needs a network for the body that is drawn, got "
            f"{regressor.id}; pass open or a weights file of the open regressor"
        )
    size, poses = regressor.input_size, "prior" if options.motion is None else "motion"
    job = SynthJob(
        out=Path(options.out) / f"renders-{poses}-seed{options.seed}-{count}-{size}",
        split="test",
        count=count,
        motion=None if options.motion is None else Path(options.motion),
        backgrounds=None if options.backgrounds is None else Path(options.backgrounds),
        config=SynthConfig(size=size, seed=options.seed),
    )
    arrays = load_shards(render_shards(job, progress=not options.quiet))
    if not options.quiet:
        note(f"predicting {count} people")
    score = score_renders(regressor, load_body(), arrays)
    summary = {"regressor": regressor.id, "poses": poses, "seed": options.seed, **score}
    lines = [f"{name:20s} {value:.4g}" for name, value in score.items()]
    emit(summary, lines, as_json=options.json)
    return 0
