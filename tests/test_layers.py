"""Who imports whom, read from the sources: arrows point down only."""

from __future__ import annotations

import ast
import graphlib
import itertools
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent

L0 = {
    "conventions",
    "keypoints",
    "plausible",
    "imaging",
    "sample",
    "errors",
    "archives",
    "files",
    "folders",
    "map_rules",
    "person",
    "person_boxes",
    "person_keypoints",
    "person_search",
    "pickles",
}
L1 = {"ops", "geometry"}
L2 = {"body", "losses", "data"}
L3 = {"models"}
L4 = {"result", "present", "pipeline", "eft", "map_fit", "smplify"}
L5 = {"api", "exports", "review", "viz", "synth", "pseudo_gt", "training", "evaluation", "deploy"}
L6 = {"cli"}
ALL = L0 | {"serving"} | L1 | L2 | L3 | L4 | L5 | L6

#: What each module may import of the package, besides itself.
ALLOWED: dict[str, set[str]] = {
    **dict.fromkeys(L0, L0),
    # The options of the fit, and the curves of keypoints: they need no torch.
    "serving": L0 | {"map_fit.config", "models.keypoint_noise"},
    **dict.fromkeys(L1, L0),
    **dict.fromkeys(L2, L0 | L1),
    "models": L0 | L1,
    "result": L0 | L1 | {"body", "models", "pipeline", "present"},  # the middle two for types only
    # Results show themselves: the panel of viz draws numbers, and knows no result.
    "present": L0 | L1 | {"body", "result", "viz.panel"},
    "pipeline": (L0 | L1 | L2 | L3 | L4) - {"data"},
    "eft": (L0 | L1 | L2 | L3 | {"result", "pipeline"}) - {"data"},
    "map_fit": (L0 | L1 | L2 | L3 | {"result", "pipeline"}) - {"data"},
    "smplify": (L0 | L1 | L2 | L3 | {"result", "pipeline"}) - {"data"},
    **dict.fromkeys(L5, L0 | L1 | L2 | L3 | L4),
    "cli": ALL,
}
ALLOWED["pseudo_gt"] = ALLOWED["pseudo_gt"] | {"api"}
ALLOWED["training"] = ALLOWED["training"] | {"evaluation", "pseudo_gt", "synth"}
ALLOWED["review"] = ALLOWED["review"] | {"pseudo_gt", "viz"}
ALLOWED["deploy"] = ALLOWED["deploy"] | {"evaluation", "serving"}

#: Third-party packages that a module may import when it is imported.
LIGHT = {"numpy", "PIL", "jaxtyping"}
REQUIRED = LIGHT | {"torch", "tqdm", "jinja2"}
#: Packages of the extras: only inside functions, so that nobody needs them to import a module.
OPTIONAL = {"onnx", "onnxruntime", "onnxscript", "openvino", "ray", "smplx"}
OPTIONAL |= {
    "tensorrt",
    "tensorrt_rtx",
    "scipy",
    "h5py",
    "cdflib",
    "pyarrow",
    "smplcodec",
    "pxr",
    "pandas",
}
#: Packages that take the place of a part of newer Pythons.
BACKPORTS = {"tomli", "tomllib"}


@dataclass(frozen=True)
class Import:
    """One imported module, what is taken from it, and when that happens."""

    target: str
    is_at_import: bool
    is_for_types: bool
    line: int
    names: tuple[str, ...] = ()


def find_imports(tree: ast.Module) -> Iterator[Import]:
    def visit(node: ast.AST, in_function: bool, for_types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in targets_of(node):
                at_import = not (in_function or for_types)
                yield Import(target, at_import, for_types, node.lineno, names_of(node))
        in_function = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, in_function, True)
            for child in node.orelse:
                yield from visit(child, in_function, for_types)
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child, in_function, for_types)

    yield from visit(tree, False, False)


def targets_of(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if node.level:
        return ["." * node.level + (node.module or "")]
    if node.module == "eft_fast":
        return [f"eft_fast.{alias.name}" for alias in node.names]
    return [node.module or ""]


def names_of(node: ast.Import | ast.ImportFrom) -> tuple[str, ...]:
    """What is taken from the target; nothing where ``targets_of`` names it already."""
    if isinstance(node, ast.Import) or node.module == "eft_fast":
        return ()
    return tuple(alias.name for alias in node.names)


def owner_of(path: str) -> str:
    """Module of the layer table that a file, relative to the package, belongs to."""
    return path.split("/")[0].removesuffix(".py")


def find_faults(path: str, source: str) -> list[str]:
    """Sentences on the imports of one file that the layers forbid."""
    owner, tree, faults = owner_of(path), ast.parse(source), []
    if owner != "__init__" and owner not in ALL:
        return [f"{path} belongs to no layer; add {owner} to the table"]
    for found in find_imports(tree):
        where = f"{path}:{found.line}"
        parts = found.target.split(".")
        if parts[0] == "":
            faults.append(f"{where} imports {found.target}; write the whole name")
        elif parts[0] != "eft_fast":
            faults += check_outside(where, owner, parts[0], found)
        elif owner == "__init__":
            if found.is_at_import:
                faults.append(f"{where} imports {found.target}; public names load lazily")
        elif parts[-1] == "_native" and owner != "ops":
            faults.append(f"{where} imports {found.target}; only ops touches the native library")
        elif len(parts) == 1 or (parts[1] not in ALL and parts[1] != "_native"):
            faults.append(f"{where} imports {found.target}; import it where it is defined")
        elif not {parts[1], ".".join(parts[1:3])} & (ALLOWED[owner] | {owner, "_native"}):
            faults.append(f"{where} imports {found.target}; {owner} may not import {parts[1]}")
    if owner != "ops":
        faults += [
            f"{path}:{node.lineno} uses torch.ops.eft_fast; only ops touches the operators"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.ops.eft_fast"
        ]
    return faults


def check_outside(where: str, owner: str, package: str, found: Import) -> list[str]:
    if package in sys.stdlib_module_names | BACKPORTS or found.is_for_types:
        return []
    if owner in L0 | {"__init__"}:
        allowed = LIGHT
    elif owner == "serving":
        allowed = LIGHT | (set() if found.is_at_import else {"onnxruntime", "openvino"})
    else:
        allowed = REQUIRED if found.is_at_import else REQUIRED | OPTIONAL
    return [] if package in allowed else [f"{where} imports {package}; {owner} may not"]


def read_sources(folder: str) -> dict[str, str]:
    """Sources of a package of the checkout by their paths in it: ``eft_fast/api.py``."""
    files = sorted((REPO / folder).rglob("*.py"))
    return {path.relative_to(REPO).as_posix(): path.read_text(encoding="utf-8") for path in files}


def find_cycle(sources: dict[str, str]) -> list[str]:
    """Files that import each other in a circle, the first one last again; empty without one.

    Imports inside functions count, those for types alone do not. An import of a package is one of
    its ``__init__``; that importing a module also runs the packages above it does not count.
    """
    file_of = {
        path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path
        for path in sources
    }
    graph = {
        path: {file_of[name] for name in names_imported(ast.parse(source), file_of)} - {path}
        for path, source in sources.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        # Its arrows point from what is imported to who imports it.
        return list(reversed(error.args[1]))
    return []


def names_imported(tree: ast.Module, known: Collection[str]) -> Iterator[str]:
    """Which of the known modules a file imports, not for types alone."""
    for found in find_imports(tree):
        if found.is_for_types:
            continue
        modules = [f"{found.target}.{name}" for name in found.names]
        inner = [name for name in modules if name in known]
        yield from inner
        if found.target in known and len(inner) < max(len(modules), 1):
            yield found.target


def test_imports_point_down() -> None:
    faults = [
        fault
        for path, source in read_sources("eft_fast").items()
        for fault in find_faults(path.removeprefix("eft_fast/"), source)
    ]
    assert faults == []


def test_no_two_files_import_each_other() -> None:
    cycle = find_cycle(read_sources("eft_fast") | read_sources("benchmarks"))
    assert cycle == [], "one idea, or something below both is missing: " + " -> ".join(cycle)


@pytest.mark.parametrize(
    ("sources", "cycle"),
    [
        (("import p.b", "from p.a import x"), ["p/a.py", "p/b.py"]),
        (("from p import b", "def f():\n    from p.a import x"), ["p/a.py", "p/b.py"]),
        (("from p.b import x", "import p.c", "import p.a"), ["p/a.py", "p/b.py", "p/c.py"]),
        (("from p.b import x", "if TYPE_CHECKING:\n    from p.a import x"), []),
        (("from p.b import x", "from p.c import x", ""), []),
        (("from p import b, x", "", "", "from p.a import x"), ["p/__init__.py", "p/a.py"]),
        (("from p import b", "", "", "from p.a import x"), []),
    ],
)
def test_a_planted_cycle_is_found(sources: tuple[str, ...], cycle: list[str]) -> None:
    names = ("p/a.py", "p/b.py", "p/c.py", "p/__init__.py")
    found = find_cycle(dict(zip(names, sources, strict=False)))
    assert sorted(set(found)) == cycle
    assert not found or found[0] == found[-1]
    arrows = ["p/a.py -> p/b.py", "p/b.py -> p/c.py", "p/c.py -> p/a.py"]
    told = [f"{first} -> {second}" for first, second in itertools.pairwise(found)]
    assert len(cycle) < 3 or sorted(told) == arrows


@pytest.mark.parametrize(
    ("path", "source", "words"),
    [
        ("body/x.py", "from eft_fast.losses import y", "body may not import losses"),
        ("body/x.py", "from eft_fast import losses", "body may not import losses"),
        ("body/x.py", "import eft_fast.losses.smpl", "body may not import losses"),
        ("body/x.py", "def f():\n    from eft_fast.models import y", "body may not import models"),
        ("ops/x.py", "from eft_fast.geometry import y", "ops may not import geometry"),
        ("models/x.py", "from eft_fast.body import y", "models may not import body"),
        ("eft/x.py", "from eft_fast.data import y", "eft may not import data"),
        ("eft/x.py", "from eft_fast.smplify import y", "eft may not import smplify"),
        ("smplify/x.py", "from eft_fast.eft import y", "smplify may not import eft"),
        ("viz/x.py", "from eft_fast.api import y", "viz may not import api"),
        ("synth/x.py", "from eft_fast.training import y", "synth may not import training"),
        ("api.py", "from eft_fast.cli import y", "api may not import cli"),
        ("sample.py", "import torch", "sample may not"),
        ("sample.py", "def f():\n    import torch", "sample may not"),
        ("serving/x.py", "import torch", "serving may not"),
        ("serving/x.py", "import onnxruntime", "serving may not"),
        ("serving/x.py", "from eft_fast.map_fit import fit", "serving may not import map_fit"),
        ("serving/x.py", "from eft_fast.map_fit.fit import y", "serving may not import map_fit"),
        ("imaging/x.py", "import cv2", "imaging may not"),
        ("viz/x.py", "import scipy.spatial", "viz may not"),
        ("deploy/x.py", "import onnx", "deploy may not"),
        ("body/x.py", "from eft_fast import _native", "only ops touches the native"),
        ("body/x.py", "import torch\ntorch.ops.eft_fast.skin(1)", "only ops touches the operators"),
        ("body/x.py", "from . import smpl", "write the whole name"),
        ("body/x.py", "from eft_fast import fit_batch", "import it where it is defined"),
        ("body/x.py", "import eft_fast", "import it where it is defined"),
        ("__init__.py", "from eft_fast.api import y", "public names load lazily"),
        ("helpers/x.py", "import os", "belongs to no layer"),
    ],
)
def test_a_planted_fault_is_found(path: str, source: str, words: str) -> None:
    faults = find_faults(path, source)
    assert len(faults) == 1
    assert words in faults[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("sample.py", "if TYPE_CHECKING:\n    import torch"),
        ("__init__.py", "if TYPE_CHECKING:\n    from eft_fast.api import fit_batch"),
        ("training/x.py", "from eft_fast.synth import y\nfrom eft_fast.evaluation import z"),
        ("pseudo_gt/x.py", "from eft_fast.api import fit_batch"),
        ("deploy/x.py", "def f():\n    import onnx"),
        ("serving/x.py", "import numpy\ndef f():\n    import onnxruntime, openvino"),
        ("deploy/x.py", "from eft_fast.serving import y"),
        ("serving/x.py", "from eft_fast.map_fit.config import MapConfig"),
        ("ops/x.py", "import torch\nfrom eft_fast import _native, conventions"),
        ("cli/x.py", "from eft_fast.api import fit_batch\nfrom eft_fast import data"),
    ],
)
def test_allowed_imports_pass(path: str, source: str) -> None:
    assert find_faults(path, source) == []


#: What runs, or says what is missing, where torch is not installed.
LIGHT_MODULES = (
    "", ".conventions", ".errors", ".keypoints", ".imaging", ".sample", ".data", ".serving",
    ".deploy.verify", ".cli",
)  # fmt: skip


def test_light_modules_load_without_torch() -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {LIGHT_MODULES}:\n"
        "    importlib.import_module('eft_fast' + name)\n"
        "    assert 'torch' not in sys.modules, name"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_programs_that_fit_do_not_bring_the_compiler() -> None:
    """Dynamo and sympy are half of a start; only who compiles loads them."""
    # This file also runs where the part without torch is tried.
    pytest.importorskip("torch", reason="torch is not installed")
    code = (
        "import sys\n"
        "import eft_fast.api, eft_fast.pipeline.dispatch, eft_fast.cli.write, eft_fast.cli.people\n"
        "assert not {'torch._dynamo', 'sympy'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
