"""What people under tension get beside the first fit: the stages of ``map_fit.fit``, in one loop.

The first search begins at the first fit: the answer turned round, bones flipped, arms exchanged.
Then come rounds of robust weights, again from the first fit. Who gains by these is searched and
weighed once more, and the better of the two ends is taken. All stages share one solver in the file:
a stage prepares problem and start, and says afterwards who takes what was found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from eft_fast.conventions import NUM_JOINTS
from eft_fast.deploy.fit_graph.energy import Problem, State
from eft_fast.deploy.fit_graph.flips import NUM_BONES, flip_bones
from eft_fast.deploy.fit_graph.robust import robust_energy, robust_factor
from eft_fast.deploy.fit_graph.solver import solve
from eft_fast.deploy.onnx_builder import INT, Value
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_rules import HALF_TURN

TURN, FLIP, FINISH, ARMS, WEIGH = range(5)
#: What a stage that was taken is told as, in the order of the output ``hypothesis``.
HYPOTHESES: Final = ("turned", "flipped", "arms")
_TOLD: Final = {TURN: (1, 0, 0), FINISH: (0, 1, 0), ARMS: (0, 0, 1)}
#: Energy of who has none, where the least is looked for.
_WORST: Final = 1e30


class Fit(NamedTuple):
    """Where people stand.

    Attributes:
        centre: Rotations of the answers that the prior is about, [N, 24, 3, 3].
        target: Keypoints [N, K, 2].
        weight: Their weights, robust factors included, [N, K, 1].
        rotmat: Of the fit, as betas and cam.
        betas: Shape.
        cam: Weak camera.
        energy: There, [N, 1].
        is_open: Who did not meet the tolerance, [N, 1].
        factor: Robust factors [N, K].
        told: What was taken, [N, 3].
    """

    centre: Value
    target: Value
    weight: Value
    rotmat: Value
    betas: Value
    cam: Value
    energy: Value
    is_open: Value
    factor: Value
    told: Value

    @property
    def state(self) -> State:
        """Where the fit is."""
        return State(self.rotmat, self.betas, self.cam)

    def problem(self, base: Problem) -> Problem:
        """What was minimised."""
        centre = base.centre._replace(rotmat=self.centre)
        return replace(base, centre=centre, target=self.target, weight=self.weight)

    def take(self, index: Value) -> Fit:
        """Some people."""
        return Fit(*(part.take(index, 0) for part in self))


class _Found(NamedTuple):
    """What a stage found, one row a person."""

    rotmat: Value
    betas: Value
    cam: Value
    energy: Value
    is_open: Value


def choose_fit(yes: Value, some: Fit, other: Fit) -> Fit:
    """One of two for each person, [N, 1]."""
    graph, axes = yes.graph, {"centre": (2, 3), "target": (2,), "weight": (2,), "rotmat": (2, 3)}
    wide = {name: yes.widen(*more) for name, more in axes.items()}
    pairs = zip(Fit._fields, some, other, strict=True)
    return Fit(*(a if a is b else graph.where(wide.get(n, yes), a, b) for n, a, b in pairs))


def first_fit(problem: Problem, active: Value, config: MapConfig) -> tuple[Fit, Value]:
    """Solve from the answers; also the energy of these, [B, 1]."""
    graph = active.graph
    found = solve(
        problem, problem.centre, active, steps=config.max_steps, tolerance=config.tolerance
    )
    count = len(problem.body.points)
    factor = problem.weight.reshape(-1, count) * 0.0 + 1.0
    told = found.energy * 0.0 + np.zeros((1, len(HYPOTHESES)))
    fit = Fit(
        problem.centre.rotmat,
        problem.target,
        problem.weight,
        *found.state,
        found.energy,
        found.is_open,
        factor,
        graph.where(told > 0.0, told, 0.0),
    )
    return fit, found.begun


def improve(problem: Problem, plain: Fit, pairs: list[tuple[int, int]], config: MapConfig) -> Fit:
    """Give people under tension what else there is.

    Args:
        problem: Of everybody.
        plain: The first fits.
        pairs: Left and right points of the arms among the keypoints.
        config: Options.
    """
    graph = plain.energy.graph
    is_hard = problem.tension(plain.energy) > config.hard_above

    flat = is_hard.reshape(-1)
    place = graph.op("CumSum", flat.to(INT), np.int64(0)) - np.int64(1)
    # Everybody's place among the hard; who is none reads the first row, and drops it.
    place = graph.op("Max", place, np.int64(0))
    # Where nobody is hard the first person is there for one stage, and is not touched. An If would
    # be free of that, but OpenVINO (2026.4) reads what comes out of it from memory that it has left
    # whenever that had to grow; and it has no outputs of a loop without a turn.
    number = graph.op("CumSum", flat.to(INT) * np.int64(0) + np.int64(1), np.int64(0))
    stands_in = number.equals(np.int64(1)) & ~flat.any()
    rows = graph.op("NonZero", flat | stands_in, kind=INT).reshape(-1)
    part = _Stages(problem.rows(lambda value: value.take(rows, 0)), pairs, config)
    best = part.run(plain.take(rows), is_hard.take(rows, 0))
    return choose_fit(is_hard, best.take(place), plain)


@dataclass(frozen=True, eq=False)
class _Stages:
    """The stages of some people.

    Attributes:
        base: Their problem as given, about the answers.
        pairs: Of the arms.
        config: Options.
    """

    base: Problem
    pairs: list[tuple[int, int]]
    config: MapConfig

    def schedule(self) -> tuple[list[int], int]:
        """The stages in their order, and the one after which it is decided who goes on."""
        rounds = [WEIGH] * self.config.robust_rounds
        first = [TURN, FLIP, FINISH, ARMS, *rounds]
        return [*first, TURN, FLIP, FINISH, *rounds], len(first) - 1

    def run(self, plain: Fit, active: Value) -> Fit:
        """The best of all, for who is active, [N, 1]."""
        graph, config = plain.energy.graph, self.config
        kinds, gate = self.schedule()
        steps = {FLIP: config.flip_steps, WEIGH: config.robust_steps}
        margins = {
            TURN: config.turn_margin, FLIP: config.flip_margin, ARMS: config.swap_margin,
        }  # fmt: skip
        table = {
            "steps": np.array([steps.get(kind, config.max_steps) for kind in kinds]),
            "margin": np.array([margins.get(kind, 0.0) for kind in kinds], np.float32),
            "told": np.array([_TOLD.get(kind, (0, 0, 0)) for kind in kinds], np.float32),
            "kind": np.array(kinds),
            "gate": np.arange(len(kinds)) == gate,
            "last": np.arange(len(kinds)) == len(kinds) - 1,
        }
        width = len(Fit._fields)
        nobody = plain.energy < -_WORST

        def body(number: Value, *carried: Value) -> tuple[Value, list[Value]]:
            current, best = Fit(*carried[:width]), Fit(*carried[width : 2 * width])
            flip, chosen, active = carried[2 * width : -2], carried[-2], carried[-1]
            row = {name: graph.const(values).take(number, 0) for name, values in table.items()}
            is_kind = [row["kind"].equals(np.int64(kind)) for kind in range(5)]
            tried, begin, able = self._prepare(is_kind, current, State(*flip))
            who = graph.where(is_kind[FINISH], chosen, able) & active
            found = self._solve(is_kind[FLIP], tried, begin, who, row["steps"])
            falls = found.energy < current.energy - row["margin"]
            wins = graph.where(is_kind[FINISH] | is_kind[WEIGH], who, falls & who)
            new = tried._replace(**found._asdict())
            new = new._replace(told=current.told.at_least(row["told"]))
            current = choose_fit(wins & ~is_kind[FLIP], new, current)
            # The first search ends with the arms; robust weights begin at the first fit.
            after, is_arms = current, is_kind[ARMS]
            best = Fit(*(graph.where(is_arms, *pair) for pair in zip(after, best, strict=True)))
            current = Fit(*(graph.where(is_arms, *pair) for pair in zip(plain, after, strict=True)))
            best, active = self._decide(row["gate"], row["last"], plain, current, best, active)
            kept = [*current, *best, found.rotmat, found.betas, found.cam, wins, active]
            return active.any(), kept

        start = [*plain, *plain, *plain.state, nobody, active]
        end = graph.loop(len(kinds), start, body)
        return Fit(*end[width : 2 * width])

    def _prepare(self, is_kind: list[Value], current: Fit, flip: State) -> tuple[Fit, State, Value]:
        """What is minimised, from where (of flips: before a bone is mirrored), and who can be."""
        graph, base = current.energy.graph, self.base
        is_turn, is_arms, is_weigh = is_kind[TURN], is_kind[ARMS], is_kind[WEIGH]
        half = np.ones((1, NUM_JOINTS, 1, 3))
        half[0, 0] = HALF_TURN
        centre = graph.where(is_turn, current.centre * half, current.centre)
        order = list(range(len(base.body.points)))
        for left, right in self.pairs:
            order[left], order[right] = right, left
        target = graph.where(is_arms, current.target.take(order, 1), current.target)
        weight = graph.where(is_arms, current.weight.take(order, 1), current.weight)
        (factor,) = graph.branch(
            is_weigh,
            lambda: [robust_factor(base, current.state, self.config.robust_k)],
            lambda: [current.factor],
        )
        weight = graph.where(is_weigh, base.weight * factor.widen(2), weight)
        tried = current._replace(centre=centre, target=target, weight=weight, factor=factor)
        answer = State(centre, base.centre.betas, base.centre.cam)
        begin = State(
            *(
                graph.where(is_turn | is_arms, a, graph.where(is_kind[FINISH], b, c))
                for a, b, c in zip(answer, flip, current.state, strict=True)
            )
        )
        return tried, begin, ~is_arms | self._has_arms(current)

    def _has_arms(self, current: Fit) -> Value:
        """Who has both points of a pair, [N, 1]."""
        if not self.pairs:
            return current.energy < -_WORST
        graph, (left, right) = current.energy.graph, zip(*self.pairs, strict=True)
        given = current.weight.reshape(-1, len(self.base.body.points)) > 0.0
        both = (given.take(left, 1) & given.take(right, 1)).to(INT)
        most = graph.op("ReduceMax", both, np.array([1], np.int64), keepdims=1)
        return most > np.int64(0)

    def _solve(self, is_flip: Value, tried: Fit, begin: State, who: Value, steps: Value) -> _Found:
        """Solve; of flips all bones of everybody at once, of which the best is found."""
        graph = who.graph
        place = graph.op("CumSum", who.reshape(-1).to(INT) * np.int64(0) + np.int64(1), np.int64(0))
        place = place - np.int64(1)
        bones = np.zeros(NUM_BONES, np.int64)
        rows, rotmat = graph.branch(
            is_flip,
            lambda: [
                (place.widen(1) + bones).reshape(-1),
                flip_bones(self.base.body, begin).reshape(-1, NUM_JOINTS, 3, 3),
            ],
            lambda: [place, begin.rotmat],
        )
        problem = tried.problem(self.base).rows(lambda value: value.take(rows, 0))
        found = solve(
            problem,
            State(rotmat, begin.betas.take(rows, 0), begin.cam.take(rows, 0)),
            who.take(rows, 0),
            steps=steps,
            tolerance=self.config.tolerance,
        )

        def best() -> list[Value]:
            energy = graph.where(found.energy < _WORST, found.energy, _WORST)
            least = graph.op("ArgMin", energy.reshape(-1, NUM_BONES), axis=1, keepdims=0, kind=INT)
            return [place * np.int64(NUM_BONES) + least]

        (index,) = graph.branch(is_flip, best, lambda: [place])
        parts = (*found.state, found.energy, found.is_open)
        return _Found(*(part.take(index, 0) for part in parts))

    def _decide(
        self, is_gate: Value, is_last: Value, plain: Fit, current: Fit, best: Fit, active: Value
    ) -> tuple[Fit, Value]:
        """After rounds of weights: who goes on, or in the end, who takes what came of them."""
        graph, config = active.graph, self.config
        (energy,) = graph.branch(
            is_gate | is_last,
            lambda: [
                robust_energy(
                    self.base, current.state, current.energy, current.factor, config.robust_k
                )
            ],
            lambda: [current.energy],
        )
        gains = energy < plain.energy - config.robust_margin
        wins = is_last & active & (energy < best.energy - config.robust_margin)
        best = choose_fit(wins, current._replace(energy=energy), best)
        return best, active & (~is_gate | gains)
