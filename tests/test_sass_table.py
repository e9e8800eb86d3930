"""tools/sass_table.py reads what the compiler made, and the kernels stay within their budgets."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parent.parent / "tools" / "sass_table.py"
pytestmark = pytest.mark.skipif(not TOOL.is_file(), reason="runs in a source checkout")

#: A loop that loads and multiplies around one that only multiplies, as cuobjdump lists them.
LISTING = """
		Function : small_kernel
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;        /* 0x00000a00ff017b82 */
                                                                 /* 0x000e300000000800 */
        /*0010*/                   LDG.E.128 R4, desc[UR6][R2.64] ; /* 0x0000000602047981 */
        /*0020*/                   LD.E R8, [R2.64] ;            /* 0x0000000002087980 */
        /*0030*/                   LDS R9, [R10] ;               /* 0x000000000a097984 */
        /*0040*/                   FFMA R11, R4, R9, R11 ;       /* 0x000000090 */
        /*0050*/              @!P1 FFMA R12, R5, R9, R12 ;       /* 0x000000090 */
        /*0060*/               @P0 BRA 0x30 ;                    /* 0xfffffff000008947 */
        /*0070*/               @P2 BRA 0x10 ;                    /* 0xfffffff000002947 */
        /*0080*/              @!P3 BRA 0x90 ;                    /* 0x0000000000003947 */
        /*0090*/                   EXIT ;                        /* 0x000000000000794d */
        /*00a0*/                   BRA 0xa0;                     /* 0xfffffffffff07947 */
"""
REPORT = """ptxas info    : Compiling entry function 'small_kernel' for 'sm_90a'
ptxas info    : Function properties for small_kernel
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 34816 bytes smem
"""


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sass_table", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sass_table"] = module
    spec.loader.exec_module(module)
    return module


def test_a_listing_is_read(tool):
    """Predicates, the jump that ends no loop, and a nested loop that runs three times."""
    kernel = tool.Kernel("small", "small.cu", "small_kernel", "FFMA", 128, shared=1024, inner=3)
    (row,) = tool.rows_of([kernel], "90a", REPORT, LISTING)
    assert (row.registers, row.spilled, row.shared, row.blocks) == (168, 12, 35840, 3)
    # LDG, LD and the outer jump once; LDS, two FFMA and the inner jump three times.
    assert (row.products, row.instructions) == (6, 15)
    assert (row.generic, row.shared_loads, row.wide_loads) == (1, 3, 1)
    assert row.per_product == 2.5
    assert tool.format_row(row).count("|") == tool.HEADER.splitlines()[0].count("|")


def test_bytes_of_a_kernel_that_only_moves_memory(tool):
    """Whole kernel; sizes with and without a sign, and none for 4 bytes."""
    listing = LISTING.replace("LD.E R8, [R2.64] ;  ", "LDG.E.U16 R8, [R2.64] ;")
    listing = listing.replace("LDS R9, [R10] ;", "STG.E [R10], R9 ;")
    kernel = tool.Kernel("small", "small.cu", "small_kernel", "", 128)
    (row,) = tool.rows_of([kernel], "90a", REPORT, listing)
    assert row.accesses == {16: 1, 4: 1, 2: 1}
    assert row.bytes_per_access == pytest.approx(22 / 3)
    assert row.instructions == 11
    assert "| 1 x 16, 1 x 4, 1 x 2 | 7.3 |" in tool.format_row(row)
    assert tool.format_row(row).count("|") == tool.MEMORY_HEADER.splitlines()[0].count("|")


def test_a_kernel_that_is_not_there_is_named(tool):
    kernel = tool.Kernel("other", "small.cu", "other_kernel", "FFMA", 128)
    with pytest.raises(LookupError, match=r"no kernel of small\.cu is called other_kernel"):
        list(tool.rows_of([kernel], "90a", REPORT, LISTING))


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "arch", "blocks"),
    [
        (168, 34816, 128, "90a", 3),  # registers
        (96, 74752, 128, "90a", 3),  # shared memory
        (96, 74752, 128, "86", 1),
        (32, 0, 256, "90a", 8),  # threads
        (32, 0, 256, "89", 6),
        (16, 0, 32, "86", 16),  # blocks
    ],
)
def test_blocks_of_a_multiprocessor(tool, registers, shared, threads, arch, blocks):
    assert tool.blocks_per_sm(arch, registers, shared, threads) == blocks


#: Start of a kernel's name: most instructions per product, and least blocks of a multiprocessor.
#: Before the loops were written for it: 31 to 117 on tensor cores (81, 117 and 50 of TF32), 2.6 to
#: 5.1 in plain float32, 6 of points, 3.5 and 7.7 of meshes.
BUDGETS = {
    "slot forward fp32 TermByTerm": (2.1, 2),
    "slot forward fp32": (1.35, 2),
    "slot forward 3xtf32 TermByTerm": (15, 2),
    "slot forward 3xtf32": (5, 2),
    "slot forward tf32 TermByTerm": (40, 2),
    "slot forward tf32": (11, 3),
    "slot backward fp32 TermByTerm": (2.4, 2),
    "slot backward fp32": (1.5, 2),
    "slot backward 3xtf32 TermByTerm": (17, 2),
    "slot backward 3xtf32": (6.5, 2),
    "slot backward tf32 TermByTerm": (46, 2),
    "slot backward tf32": (16, 3),
    "slot update fp32": (2.0, 2),
    "slot update 3xtf32": (11.5, 2),
    "slot update tf32 TermByTerm": (31, 2),
    "slot update tf32": (16.5, 3),
    "points": (1.6, 2),
    "mesh fp32": (2.0, 3),
    "mesh 3xtf32": (5.2, 3),
    "mesh few": (1.6, 5),
    "mesh backward transforms": (2.1, 4),
    "mesh backward coefficients, many": (1.15, 3),
    "mesh backward coefficients, few": (1.35, 4),
}
#: Least mean bytes of a load or store; 3.5 to 4.4 where a thread moves one number at a time.
MOVES = {
    "adam fp32": 13,
    "adam bf16": 9.5,
    "linear forward fp32": 8,
    "linear forward bf16": 5.4,
    "linear backward": 5.4,
    "linear update fp32": 10.5,
    "linear update bf16": 9.5,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        "slot_conv_forward",
        "slot_conv_backward",
        "slot_conv_update",
        "slot_adam",
        "slot_linear",
        "points",
        "mesh_tiles",
        "mesh",
        "mesh_backward",
    ],
)
def test_kernels_stay_within_their_budgets(tool, source):
    """Compiled for Hopper; no GPU is needed to count."""
    for name in ("nvcc", "cuobjdump"):
        if tool.find_tool(name) is None:
            pytest.skip(f"no {name}")
    kernels = [kernel for kernel in tool.KERNELS if kernel.source == f"{source}.cu"]
    assert kernels
    for row in tool.measure(kernels, "90a"):
        name = row.kernel.name
        assert row.spilled == 0, name
        assert row.generic == 0, f"{name}: memory whose kind the compiler does not know"
        if not row.kernel.product:
            least = next(MOVES[start] for start in MOVES if name.startswith(start))
            assert row.bytes_per_access >= least, name
            continue
        most, blocks = next(BUDGETS[start] for start in BUDGETS if name.startswith(start))
        assert row.products > 0, name
        assert row.per_product <= most, name
        assert row.blocks >= blocks, name
