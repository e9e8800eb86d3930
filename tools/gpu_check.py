"""Everything a machine with a GPU can show, in one go and without a network: `make gpu`.

Prints versions, builds, runs the tests marked ``cuda`` (a missing GPU fails them), runs
compute-sanitizer where it is installed, and writes first timings of operators and of EFT. Each
step has a share of the time limit; a step that fails does not stop the next ones, but the exit code
is 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

#: Limit of the whole check: the steps' own limits add up to little more, and few of them need what
#: they may take.
SECONDS = 520.0
NEEDED = ("numpy", "PIL", "jaxtyping", "jinja2", "tqdm", "pytest", "setuptools")


def output_of(*command: str) -> str:
    """What a program prints, or what is wrong with it."""
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return (result.stdout or result.stderr).strip()


def versions() -> str | None:
    """Print what is installed; return what is missing, in words, or None."""
    print(f"python {platform.python_version()}, {output_of('nvcc', '--version').splitlines()[-1]}")
    missing = [name for name in ("torch", *NEEDED) if importlib.util.find_spec(name) is None]
    if missing:
        return f"these Python packages are needed, and missing: {', '.join(missing)}"
    import torch

    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}")
    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} was built without CUDA; install a CUDA build of torch>=2.11"
        )
    if not torch.cuda.is_available():
        return "torch sees no GPU; check the driver with nvidia-smi"
    gpu = torch.cuda.get_device_properties(0)
    print(f"{gpu.name}, {gpu.multi_processor_count} multiprocessors, {gpu.total_memory >> 30} GiB")
    print(
        f"driver {output_of('nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader')}"
    )
    return None


def step(title: str, command: list[str], limit: float, **environment: str) -> bool:
    """Run one step and say how it ended."""
    print(f"\n== {title}: {' '.join(command)}", flush=True)
    start = time.monotonic()
    try:
        code = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **environment}, timeout=max(limit, 1)
        ).returncode
        ending = "passed" if code == 0 else f"failed with exit code {code}"
    except subprocess.TimeoutExpired:
        code, ending = 1, f"stopped at its limit of {limit:.0f} s"
    print(f"== {title} {ending} after {time.monotonic() - start:.0f} s", flush=True)
    return code == 0


def own_archs() -> dict[str, str]:
    """Compile for this machine's GPU alone, unless told otherwise: a third of the time."""
    import torch

    if os.environ.get("EFT_FAST_ARCHS"):
        return {}
    major, minor = torch.cuda.get_device_capability()
    # Of Hopper the arch-specific form, as in the default build.
    return {"EFT_FAST_ARCHS": f"{major}{minor}{'a' if (major, minor) == (9, 0) else ''}"}


def main() -> int:
    """Run the steps; 0 if all passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--csv", type=Path, default=ROOT / "build" / "gpu_check.csv")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="limit of the whole check")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds

    def left(most: float) -> float:
        return min(most, deadline - time.monotonic())

    problem = versions()
    if problem:
        print(f"gpu_check: {problem}", file=sys.stderr)
        return 2
    python, tools = sys.executable, Path(__file__).parent
    build = [python, "setup.py", "--quiet", "build_ext", "--inplace"]
    cores = str(os.cpu_count() or 1)
    if not step("build", build, left(150), EFT_FAST_CUDA="1", MAX_JOBS=cores, **own_archs()):
        return 1
    tests = [python, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider"]
    tests += ["--continue-on-collection-errors", "--durations=5", "tests"]
    passed = [step("tests", tests, left(150), EFT_FAST_REQUIRE_CUDA="1")]
    ops, eft = str(tools / "gpu_ops.py"), str(tools / "gpu_eft.py")
    measuring = [python, ops, "--time", f"{left(100) - 20:.0f}", "--csv", str(arguments.csv)]
    passed.append(step("timings", measuring, left(100)))
    print(f"timings are in {arguments.csv}")
    eft_csv = arguments.csv.with_name("gpu_eft.csv")
    fitting = [python, eft, "--seconds", f"{left(110) - 30:.0f}", "--csv", str(eft_csv)]
    passed.append(step("EFT", fitting, left(110)))
    print(f"people per second are in {eft_csv}")
    if sanitizer := shutil.which("compute-sanitizer"):
        for tool in ("memcheck", "racecheck"):
            for name, script in (("", ops), (", EFT", eft)):
                watch = [sanitizer, "--tool", tool, "--error-exitcode", "9"]
                watch += [python, script, "--exercise"]
                passed.append(step(f"compute-sanitizer {tool}{name}", watch, left(60)))
    else:
        print("compute-sanitizer is not installed: memory and races were not checked")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
