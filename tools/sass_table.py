"""What the compiler made of the CUDA kernels: registers, shared memory, instructions per product.

Needs nvcc and cuobjdump (of the CUDA toolkit, or the packages nvidia-cuda-cuobjdump and
nvidia-cuda-nvdisasm), no GPU. Compiled files are kept in build/sass, by their content.

    python tools/sass_table.py                    every kernel that docs/cuda.md speaks of, sm_90a
    python tools/sass_table.py slot_conv --archs 80,90a

The main loop of a kernel is the smallest loop that loads from memory and holds most of its products
(HMMA on tensor cores, FFMA and DFMA otherwise). Its instructions are counted where they stand; an
unrolled part of it that is a loop of its own counts as often as it runs, see ``Kernel.inner``.
Kernels that only pass through memory have a table of their own: how many bytes their loads and
stores move.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
CUDA: Final = ROOT / "csrc" / "cuda"
CACHE: Final = ROOT / "build" / "sass"
FLAGS: Final = ("-O3", "-std=c++17", "-DNDEBUG", "-Xptxas=-v", "-cubin")

#: Of a multiprocessor: registers, bytes of shared memory, threads, blocks. A block may have 1 KB of
#: shared memory beside its own.
LIMITS: Final = {
    "80": (65536, 164 << 10, 2048, 32),
    "86": (65536, 100 << 10, 1536, 16),
    "89": (65536, 100 << 10, 1536, 24),
    "90": (65536, 228 << 10, 2048, 32),
}


@dataclass(frozen=True)
class Kernel:
    """A kernel that is worth a row.

    Attributes:
        name: What the table calls it.
        source: File in csrc/cuda.
        pattern: Regular expression of its name, without namespaces.
        product: Instruction that does the work; empty: memory does.
        threads: Of a block.
        shared: Bytes of dynamic shared memory.
        inner: How often a loop of products within the main loop runs per turn.
        least: Products that make a loop the main one; 0: half of the most that a loop holds.
    """

    name: str
    source: str
    pattern: str
    product: str
    threads: int
    shared: int = 0
    inner: int = 1
    least: int = 0


def _slot_kernels() -> Iterator[Kernel]:
    ways = {
        "forward": ("AsMatrix", "TapByTap", "TermByTerm"),
        "backward": ("AsMatrix", "TapByTap", "TermByTerm"),
        "update": ("AsMatrix", "TapByTap", "TapByPixel", "TermByTerm"),
    }
    products = {
        "fp32": ("PlainProduct<float>", "FFMA"),
        "3xtf32": (r"TensorProduct<\(bool\)1>", "HMMA"),
        "tf32": (r"TensorProduct<\(bool\)0>", "HMMA"),
    }
    for direction, kinds in ways.items():
        for label, (product, instruction) in products.items():
            for way in kinds:
                states = ("",)
                if direction != "update" and way != "TermByTerm":
                    states = ("<float>", "<Bf16>")
                for state in states:
                    name = f"slot {direction} {label} {way}{state}"
                    pattern = f"slot_{direction}_kernel<float, {product}, {way}{state}"
                    yield Kernel(name, f"slot_conv_{direction}.cu", pattern, instruction, 128)


#: Shared memory of the points kernels with EFT's 49 points.
POINTS: Final = 59 << 10


def _memory_kernels() -> Iterator[Kernel]:
    for state, label in (("float", "fp32"), ("Bf16", "bf16")):
        yield Kernel(f"adam {label}", "slot_adam.cu", f"adam_kernel<float, {state}, 4>", "", 256)
        for direction in ("forward", "backward", "update"):
            pattern = f"linear_{direction}_kernel<float, {state}, 4>"
            yield Kernel(f"linear {direction} {label}", "slot_linear.cu", pattern, "", 256)


KERNELS: Final = (
    *_slot_kernels(),
    *_memory_kernels(),
    Kernel(
        "points loss fp32",
        "points.cu",
        r"points_kernel<float, 2, \(bool\)1",
        "FFMA",
        256,
        POINTS,
        least=100,
    ),
    Kernel(
        "points forward fp32",
        "points.cu",
        r"points_kernel<float, 0, \(bool\)1",
        "FFMA",
        256,
        POINTS,
        least=100,
    ),
    Kernel("mesh fp32", "mesh_tiles.cu", "float32_kernel", "FFMA", 128, 40464, inner=4),
    Kernel("mesh 3xtf32", "mesh_tiles.cu", "three_tf32_kernel", "HMMA", 128, 49920),
    Kernel("mesh few", "mesh.cu", "few_people_kernel<float", "FFMA", 128, 28480),
    Kernel(
        "mesh backward transforms",
        "mesh_backward.cu",
        "transform_gradient_kernel<float",
        "FFMA",
        256,
        50592,
        least=140,
    ),
    Kernel(
        "mesh backward coefficients, many",
        "mesh_backward.cu",
        r"coefficient_gradient_kernel<16",
        "FFMA",
        128,
        61120,
        inner=6,
    ),
    Kernel(
        "mesh backward coefficients, few",
        "mesh_backward.cu",
        r"coefficient_gradient_kernel<4",
        "FFMA",
        128,
        51904,
        inner=6,
    ),
)


@dataclass(frozen=True)
class Row:
    """What was found of one kernel on one architecture."""

    kernel: Kernel
    arch: str
    registers: int
    spilled: int
    shared: int
    blocks: int
    products: int
    instructions: int
    generic: int  # loads and stores of the whole kernel whose address space is not known
    shared_loads: int
    wide_loads: int
    accesses: dict[int, int]  # loads and stores of global memory in the whole kernel, by bytes

    @property
    def bytes_per_access(self) -> float:
        """Mean bytes that a thread moves at a time, from or to global memory."""
        total = sum(size * count for size, count in self.accesses.items())
        return total / max(sum(self.accesses.values()), 1)

    @property
    def per_product(self) -> float:
        """Instructions of the main loop per product."""
        return self.instructions / max(self.products, 1)


@dataclass(frozen=True)
class Instruction:
    """One line of the disassembly."""

    address: int
    name: str
    operands: str


def find_tool(name: str) -> str | None:
    """A tool of the CUDA toolkit: on PATH, beside nvcc, or in NVIDIA's Python packages."""
    if found := shutil.which(name):
        return found
    folders = []
    if name != "nvcc" and (nvcc := find_tool("nvcc")):
        folders.append(Path(nvcc).resolve().parent)
        dry = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True).stderr
        if top := re.search(r"TOP=(.+)", dry):
            folders.append(Path(top[1].strip()) / "bin")
    folders.append(Path("/usr/local/cuda/bin"))
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folders += sorted(Path(place).glob("*/bin"))
    for folder in folders:
        if (folder / name).is_file():
            return str(folder / name)
    return None


def compile_source(source: str, arch: str) -> tuple[Path, str]:
    """Compiled file and ptxas's report of a source, made once per content."""
    nvcc = find_tool("nvcc")
    if nvcc is None:
        raise FileNotFoundError("sass_table: nvcc is needed, found none; put it on PATH")
    headers = [*sorted(CUDA.glob("*.h")), *sorted((ROOT / "csrc" / "math").glob("*.h"))]
    key = hashlib.sha256(f"{arch} {FLAGS} {_version(nvcc)}".encode())
    for path in (CUDA / source, *headers):
        key.update(path.read_bytes())
    target = CACHE / f"{Path(source).stem}-{arch}-{key.hexdigest()[:12]}.cubin"
    report = target.with_suffix(".txt")
    if not (target.exists() and report.exists()):
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [nvcc, *FLAGS, f"-gencode=arch=compute_{arch},code=sm_{arch}"]
        result = subprocess.run(
            [*command, "-o", str(target), str(CUDA / source)], capture_output=True, text=True
        )
        if result.returncode:
            raise RuntimeError(f"sass_table: {source} does not compile\n{result.stderr}")
        report.write_text(result.stderr)
    return target, report.read_text()


def _version(nvcc: str) -> str:
    return subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout


def demangle(text: str) -> str:
    """Names as in the source, without namespaces and parameters."""
    tool = shutil.which("c++filt") or find_tool("cu++filt")
    if tool is None:
        raise FileNotFoundError("sass_table: c++filt is needed, found none; install binutils")
    text = subprocess.run([tool], input=text, capture_output=True, text=True).stdout
    text = re.sub(r"eft_fast::|\(anonymous namespace\)::|_INTERNAL_\w+::", "", text)
    return re.sub(r"\((?:bool|int)\)(\d)|\b(true|false)\b", _plain_number, text)


def _plain_number(match: re.Match[str]) -> str:
    number = match[1] or str(int(match[2] == "true"))
    return f"(bool){number}" if match[2] or match[0].startswith("(bool)") else number


def parse_report(text: str) -> dict[str, tuple[int, int, int]]:
    """Registers, spilled bytes and static shared memory by name, of ptxas's report."""
    rows = {}
    pattern = (
        r"Function properties for (\S.*)\n.*?(\d+) bytes spill stores, (\d+) bytes spill loads\n"
        r".*?Used (\d+) registers(.*)"
    )
    for name, stores, loads, registers, rest in re.findall(pattern, text):
        shared = re.search(r"(\d+) bytes smem", rest)
        rows[name] = int(registers), int(stores) + int(loads), int(shared[1]) if shared else 0
    return rows


def parse_sass(text: str) -> dict[str, list[Instruction]]:
    """Instructions by name, of cuobjdump's listing."""
    functions: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    pattern = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);")
    for line in text.splitlines():
        if "Function :" in line:
            current = functions.setdefault(line.split("Function :", 1)[1].strip(), [])
        elif match := pattern.match(line):
            current.append(Instruction(int(match[1], 16), match[2], match[3]))
    return functions


def loops_of(code: Sequence[Instruction]) -> list[tuple[int, int]]:
    """First and last address of every loop: from the target of a jump back to the jump."""
    loops = set()
    for each in code:
        target = re.search(r"0x([0-9a-f]+)\s*$", each.operands)
        if each.name.startswith("BRA") and target and int(target[1], 16) < each.address:
            loops.add((int(target[1], 16), each.address))
    return sorted(loops, key=lambda loop: loop[1] - loop[0])


def main_loop(
    code: Sequence[Instruction], product: str, inner: int = 1, least: int = 0
) -> list[tuple[Instruction, int]]:
    """Instructions of the main loop and how often each runs per turn; empty if there is none."""

    def within(loop: tuple[int, int]) -> list[Instruction]:
        return [each for each in code if loop[0] <= each.address <= loop[1]]

    def count(part: Sequence[Instruction], name: str) -> int:
        return sum(each.name.split(".")[0] == name for each in part)

    loops = loops_of(code)
    products = [count(within(loop), product) for loop in loops]
    if not products or max(products) == 0:
        return []
    least = least or -(-max(products) // 2)
    for loop, found in zip(loops, products, strict=True):
        part = within(loop)
        loads = sum(count(part, name) for name in ("LDG", "LDGSTS", "LD"))
        if found < least or loads == 0:
            continue
        nested = [
            small
            for small, some in zip(loops, products, strict=True)
            if small != loop and loop[0] <= small[0] and small[1] <= loop[1] and some
        ]
        return [
            (each, inner if any(low <= each.address <= high for low, high in nested) else 1)
            for each in part
        ]
    return []


def blocks_per_sm(arch: str, registers: int, shared: int, threads: int) -> int:
    """How many blocks a multiprocessor holds; registers are given out in 256s per warp."""
    all_registers, all_shared, all_threads, most = LIMITS[arch.rstrip("af")]
    warps = -(-threads // 32)
    of_warp = -(-registers * 32 // 256) * 256
    of_block = -(-shared // 128) * 128 + 1024
    # Registers of a multiprocessor lie in four banks, each of its own warps.
    by_registers = all_registers // 4 // max(of_warp, 1) * 4 // warps
    return min(by_registers, all_shared // of_block, all_threads // threads, most)


def measure(kernels: Sequence[Kernel], arch: str) -> Iterator[Row]:
    """A row per kernel that a source has."""
    tool = find_tool("cuobjdump")
    if tool is None:
        raise FileNotFoundError(
            "sass_table: cuobjdump is needed, found none; install the CUDA toolkit's, or "
            "nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm"
        )
    for source in dict.fromkeys(kernel.source for kernel in kernels):
        cubin, report = compile_source(source, arch)
        yield from rows_of(
            [kernel for kernel in kernels if kernel.source == source], arch, report, listing(cubin)
        )


def listing(cubin: Path) -> str:
    """Disassembly of a compiled file."""
    tool = find_tool("cuobjdump")
    assert tool is not None
    # It starts nvdisasm, which lies beside it.
    environment = {"PATH": f"{Path(tool).parent}:/usr/bin:/bin"}
    result = subprocess.run(
        [tool, "-sass", str(cubin)], capture_output=True, text=True, env=environment
    )
    if result.returncode:
        raise RuntimeError(f"sass_table: cuobjdump failed\n{result.stderr}")
    return result.stdout


def rows_of(kernels: Sequence[Kernel], arch: str, report: str, sass: str) -> Iterator[Row]:
    """Rows of the kernels of one source."""
    resources, functions = parse_report(demangle(report)), parse_sass(demangle(sass))
    for kernel in kernels:
        names = [name for name in functions if re.search(rf"\b{kernel.pattern}", name)]
        if not names:
            raise LookupError(
                f"sass_table: no kernel of {kernel.source} is called {kernel.pattern}"
            )
        (name,) = names[:1]
        registers, spilled, static = resources[name]
        loop = [(each, 1) for each in functions[name]]
        if kernel.product:
            loop = main_loop(functions[name], kernel.product, kernel.inner, kernel.least)
        counts: Counter[str] = Counter()
        wide = 0
        for each, times in loop:
            counts[each.name.split(".")[0]] += times
            wide += times * (each.name.startswith(("LDG", "LDGSTS")) and ".128" in each.name)
        yield Row(
            kernel, arch, registers, spilled, static + kernel.shared,
            blocks_per_sm(arch, registers, static + kernel.shared, kernel.threads),
            counts[kernel.product], sum(counts.values()),
            sum(each.name.split(".")[0] in ("LD", "ST") for each in functions[name]),
            counts["LDS"], wide, bytes_moved(functions[name]),
        )  # fmt: skip


def bytes_moved(code: Sequence[Instruction]) -> dict[int, int]:
    """How many loads and stores of global memory move so many bytes."""
    sizes: Counter[int] = Counter()
    for each in code:
        kind, *rest = each.name.split(".")
        if kind in ("LDG", "STG", "LDGSTS"):
            bits = next((match[1] for word in rest if (match := _WIDTH.fullmatch(word))), "32")
            sizes[int(bits) // 8] += 1
    return dict(sorted(sizes.items(), reverse=True))


_WIDTH: Final = re.compile(r"[US]?(8|16|64|128)")
HEADER: Final = (
    "| kernel | arch | registers | spilled | shared | blocks/SM | loop | products | per product "
    "| generic / LDS | LDG.128 |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


MEMORY_HEADER: Final = (
    "| kernel | arch | registers | spilled | shared | blocks/SM | instructions "
    "| global loads and stores x bytes | bytes each |\n|---|---|---|---|---|---|---|---|---|"
)


def format_row(row: Row) -> str:
    """As a line of Markdown, of one of the two tables."""
    if not row.kernel.product:
        moved = ", ".join(f"{count} x {size}" for size, count in row.accesses.items())
        return (
            f"| {row.kernel.name} | {row.arch} | {row.registers} | {row.spilled} | {row.shared} "
            f"| {row.blocks} | {row.instructions} | {moved} | {row.bytes_per_access:.1f} |"
        )
    return (
        f"| {row.kernel.name} | {row.arch} | {row.registers} | {row.spilled} | {row.shared} "
        f"| {row.blocks} | {row.instructions} | {row.products} {row.kernel.product} "
        f"| {row.per_product:.1f} | {row.generic} / {row.shared_loads} | {row.wide_loads} |"
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="parts of file names; default: all")
    parser.add_argument("--archs", default="90a", help="compute capabilities, as 80,90a")
    arguments = parser.parse_args()
    kernels = [
        kernel
        for kernel in KERNELS
        if not arguments.names or any(name in kernel.source for name in arguments.names)
    ]
    for header, is_memory in ((HEADER, False), (MEMORY_HEADER, True)):
        chosen = [kernel for kernel in kernels if bool(kernel.product) != is_memory]
        if not chosen:
            continue
        print(header)
        for arch in arguments.archs.split(","):
            for row in measure(chosen, arch):
                print(format_row(row), flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (FileNotFoundError, LookupError, RuntimeError) as error:
        sys.exit(str(error))
