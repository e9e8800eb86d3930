"""Walk one person from ``fit_batch`` to ``FitResult`` and count what the walk crosses.

``python tools/walk.py [--tree CHECKOUT] [--names]`` fits one and then two people with a tiny
network. It counts the functions that run for a person and the files that they lie in; the records
(dataclasses and named tuples of the package) that are made on the way; and the functions that
decide when a fit ends. ``--tree`` walks another checkout, to compare before and after.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: What a rule for the end of a fit is compared with, by name.
_LIMITS = {"threshold", "max_steps", "stop_below", "_stop_below"}
#: What a fit is called at its end.
_REASONS = {"converged", "max_steps"}
_ORDERS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
#: The network itself, the body and what lies behind an operator are no part of the walk.
_INSIDE = ("models", "ops", "body", "losses")


def main() -> int:
    """Print the counts of a checkout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("--tree", type=Path, default=here, help="checkout to walk")
    parser.add_argument("--names", action="store_true", help="print the names, too")
    options = parser.parse_args()
    tree = options.tree.resolve()
    sys.path.insert(0, str(tree))
    walks = [_walk(count, tree) for count in (1, 2)]
    functions = _growing(walks[0][0], walks[1][0])
    records = set(walks[1][1])
    files = {name.split(":")[0] for name in functions}
    rules = sorted(_find_rules(tree / "eft_fast"))
    for title, names in (
        ("functions that run for a person", functions),
        ("files that they lie in", files),
        ("records that are made on the way", records),
        ("functions that decide when a fit ends", rules),
    ):
        print(f"{len(names):4d} {title}")
        if options.names:
            print("".join(f"       {name}\n" for name in sorted(names)), end="")
    return 0


def _walk(count: int, tree: Path) -> tuple[Counter[str], Counter[str]]:
    """How often each function ran, and each record was made, in a fit of ``count`` people."""
    import numpy as np
    import torch

    import eft_fast
    from eft_fast.models.open_regressor import OpenRegressor

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (160, 160, 3), dtype=np.uint8) for _ in range(count)]
    keypoints = np.concatenate(
        [rng.uniform(40, 120, (count, 17, 2)), np.ones((count, 17, 1))], axis=2
    )
    body, regressor = eft_fast.load_body(), OpenRegressor.make_tiny()
    config = eft_fast.EftConfig(max_steps=3, threshold=0.0)

    def fit() -> None:
        eft_fast.fit_batch(
            photos, keypoints, regressor=regressor, body=body, config=config, progress=False
        )

    fit()  # whatever is loaded and cached once
    records, restore = _watch_records()
    functions: Counter[str] = Counter()
    root = str(tree / "eft_fast") + "/"

    def watch(frame: Any, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(root):
            functions[f"{code.co_filename.removeprefix(root)}:{code.co_qualname}"] += 1

    sys.setprofile(watch)
    try:
        fit()
    finally:
        sys.setprofile(None)
        restore()
    walked = {name: n for name, n in functions.items() if name.split("/")[0] not in _INSIDE}
    held = {name: n for name, n in records.items() if name.split(".")[1] not in _INSIDE}
    return Counter(walked), Counter(held)


def _watch_records() -> tuple[Counter[str], Callable[[], None]]:
    """Count every record of the package that is made, until it is told to stop."""
    made: Counter[str] = Counter()
    undo: list[Callable[[], None]] = []
    kinds = {
        value
        for name, module in list(sys.modules.items())
        if name.startswith("eft_fast")
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__.startswith("eft_fast")
    }
    for kind in kinds:
        maker = "__init__" if dataclasses.is_dataclass(kind) else "__new__"
        if maker == "__new__" and not (issubclass(kind, tuple) and hasattr(kind, "_fields")):
            continue
        undo.append(_count_calls(kind, maker, made))
    return made, lambda: [back() for back in undo] and None


def _count_calls(kind: type, maker: str, made: Counter[str]) -> Callable[[], None]:
    original = getattr(kind, maker)

    def counted(*arguments: Any, **options: Any) -> Any:
        made[f"{kind.__module__}.{kind.__qualname__}"] += 1
        return original(*arguments, **options)

    setattr(kind, maker, staticmethod(counted) if maker == "__new__" else counted)
    return lambda: setattr(kind, maker, original)


def _growing(one: Counter[str], two: Counter[str]) -> set[str]:
    """What there is more of with two people than with one."""
    return {name for name in two if two[name] > one[name]}


def _find_rules(package: Path) -> set[str]:
    """Functions that compare with a limit, or name a fit's end, to decide that it is one."""
    rules = set()
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        if name.startswith(("cli/", "viz/", "training/", "evaluation/", "pseudo_gt/")):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and _decides(node):
                rules.add(f"{name}:{node.name}")
    return rules


def _decides(function: ast.FunctionDef) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], _ORDERS):
            sides = [node.left, *node.comparators]
            if any(isinstance(each, ast.Attribute) and each.attr in _LIMITS for each in sides):
                return True
        if isinstance(node, ast.IfExp | ast.Return | ast.Assign | ast.Call):
            values = [each for each in ast.walk(node) if isinstance(each, ast.Constant)]
            if {each.value for each in values if isinstance(each.value, str)} >= _REASONS:
                return True
    return False


if __name__ == "__main__":
    sys.exit(main())
