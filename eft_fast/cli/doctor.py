"""``eft-fast doctor``: versions, build, backends, devices, model files, and what to do."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from eft_fast.cli.output import NO_TORCH, emit
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.serving.cpus import usable_cpus

_PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "jaxtyping",
    "tqdm",
    "jinja2",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt-cu13",
    "tensorrt-rtx-cu13",
    "smplx",
    "usd-core",
    "pandas",
)


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    add_command(
        subparsers,
        "doctor",
        run,
        summary="say what is installed, what is missing, and what to do",
        description="Check the installation. Exit code 1 if something that fits need is broken.",
        examples=["eft-fast doctor", "eft-fast doctor --json"],
    )


def run(options: argparse.Namespace) -> int:
    """Gather the facts, print them, and say what to do about each problem."""
    problems: list[str] = []
    summary: dict[str, Any] = {
        "eft_fast": _version("eft-fast"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": usable_cpus(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "native": _native(problems),
        "devices": _devices(problems),
        "models": _models(problems),
        "nvcc": shutil.which("nvcc") is not None,
    }
    summary["onnxruntime"] = _runtime(problems)
    summary["problems"] = problems
    emit(summary, _lines(summary), as_json=options.json)
    return 1 if problems else 0


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _native(problems: list[str]) -> dict[str, Any]:
    if not _has_torch():
        problems.append(NO_TORCH)
        return {"loaded": False}
    try:
        from eft_fast import ops

        return dict(ops.build_info())
    except (ImportError, OSError, RuntimeError) as error:
        problems.append(f"the native library does not load ({error})")
        return {"loaded": False}


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _devices(problems: list[str]) -> list[str]:
    if not _has_torch():
        return []
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


def _runtime(problems: list[str]) -> dict[str, Any]:
    """ONNX Runtime: what was installed, and what is found when it is imported.

    Both packages write the same folder: whichever came last wins, and the GPU may be gone without
    a word. The list of providers is what was compiled in, not what runs here.
    """
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name) is not None]
    if len(installed) == 2:
        problems.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; run "
            "`pip uninstall -y onnxruntime onnxruntime-gpu`, then install the one you want, for "
            "a GPU `pip install 'onnxruntime-gpu[cuda,cudnn]'`"
        )
    if not installed:
        return {"providers": []}
    try:
        import onnxruntime

        providers = [
            name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
        ]
    except (ImportError, AttributeError) as error:
        problems.append(
            f"{installed[-1]} does not load ({error}); run `pip install --force-reinstall "
            f"{installed[-1]}`"
        )
        return {"providers": []}
    if installed == ["onnxruntime-gpu"] and "CUDA" not in providers:
        problems.append(
            "onnxruntime-gpu is installed, but what is imported has no CUDA; run `pip uninstall -y "
            "onnxruntime onnxruntime-gpu`, then `pip install 'onnxruntime-gpu[cuda,cudnn]'`"
        )
    return {"providers": providers}


def _lines(summary: dict[str, Any]) -> list[str]:
    packages = {name: found for name, found in summary["packages"].items() if found}
    native = summary["native"]
    lines = [
        f"eft-fast   {summary['eft_fast']}  (Python {summary['python']}, {summary['cpus']} CPUs)",
        "packages   " + ", ".join(f"{name} {found}" for name, found in packages.items()),
        "native     " + ", ".join(f"{key}={value}" for key, value in native.items()),
        "GPUs       " + (", ".join(summary["devices"]) or "none that torch can use"),
        "runtime    "
        + (", ".join(summary["onnxruntime"]["providers"]) or "no ONNX Runtime")
        + (" (compiled in)" if summary["onnxruntime"]["providers"] else ""),
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
