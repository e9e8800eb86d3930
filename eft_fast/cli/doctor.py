"""``eft-fast doctor``: versions, build, backends, devices, model files, and what to do."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from eft_fast.cli.output import add_common_options, emit

_PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "jaxtyping",
    "tqdm",
    "jinja2",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "smplx",
)


def add_command(commands: Any, name: str, help_line: str) -> None:
    """Register the command."""
    parser = commands.add_parser(
        name,
        help=help_line,
        description="Check the installation. Exit code 1 if something that fits need is broken.",
        epilog="example: eft-fast doctor --json",
    )
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Gather the facts, print them, and say what to do about each problem."""
    problems: list[str] = []
    summary: dict[str, Any] = {
        "eft_fast": _version("eft-fast"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "native": _native(problems),
        "devices": _devices(problems),
        "models": _models(problems),
        "nvcc": shutil.which("nvcc") is not None,
    }
    _check_onnxruntime(problems)
    summary["problems"] = problems
    emit(summary, _lines(summary), as_json=options.json)
    return 1 if problems else 0


def _usable_cpus() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _native(problems: list[str]) -> dict[str, Any]:
    try:
        from eft_fast import ops

        return dict(ops.build_info())
    except (ImportError, OSError, RuntimeError) as error:
        problems.append(
            f"the native library does not load ({error}); build it with `make native` or "
            "`pip install --no-build-isolation .`"
        )
        return {"loaded": False}


def _devices(problems: list[str]) -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    from eft_fast import ops

    if not ops.has_cuda():
        problems.append(
            "torch sees a GPU, but eft_fast was built without CUDA; install nvcc and rebuild with "
            "EFT_FAST_CUDA=1"
        )
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _models(problems: list[str]) -> dict[str, Any]:
    assets = Path(__file__).resolve().parent.parent / "assets"
    found: dict[str, Any] = {}
    for name, file in (("body", "open_body.npz"), ("regressor", "open_regressor.npz")):
        path = assets / file
        found[name] = {"file": file, "bytes": path.stat().st_size if path.is_file() else None}
        if not path.is_file():
            problems.append(f"the package lacks assets/{file}; install it again")
    folder = os.environ.get("EFT_FAST_MODELS")
    found["EFT_FAST_MODELS"] = folder
    if folder and not Path(folder).is_dir():
        problems.append(f"EFT_FAST_MODELS must name a folder, got {folder}; create or unset it")
    return found


def _check_onnxruntime(problems: list[str]) -> None:
    """Both packages write the same folder: whichever was installed last wins, half overwritten."""
    installed = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        installed.append(name)
    if len(installed) == 2:
        problems.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; "
            "uninstall both, then install the one you want"
        )


def _lines(summary: dict[str, Any]) -> list[str]:
    packages = {name: found for name, found in summary["packages"].items() if found}
    native = summary["native"]
    lines = [
        f"eft-fast   {summary['eft_fast']}  (Python {summary['python']}, {summary['cpus']} CPUs)",
        "packages   " + ", ".join(f"{name} {found}" for name, found in packages.items()),
        "native     " + ", ".join(f"{key}={value}" for key, value in native.items()),
        "GPUs       " + (", ".join(summary["devices"]) or "none that torch can use"),
        "nvcc       " + ("found" if summary["nvcc"] else "not found: only CPU code can be built"),
        "models     "
        + ", ".join(
            f"{kind} {item['file']} ({item['bytes']} bytes)"
            for kind, item in summary["models"].items()
            if isinstance(item, dict)
        ),
    ]
    if summary["problems"]:
        lines += ["problems:"] + [f"  - {problem}" for problem in summary["problems"]]
    else:
        lines.append("no problems found")
    return lines
