"""Commands and Python of README.md and docs/ run as they are written.

Blocks without a language hold commands, a line each; ``python`` blocks of a page run in one
namespace, with the names of ``make_names``. What is not run says why, in a comment above its block:
``<!-- not run: REASON -->``, or ``<!-- not run "PART": REASON -->`` for the lines that hold PART.
Commands that are not run are still parsed.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eft_fast.cli.main import main, make_program

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.is_file()
]
SAMPLE = ROOT / "eft_fast" / "assets" / "demo"
#: Parts of commands that take longer than a quick test may.
LONG = ("--method smplify", "export", "predict", "verify", "--model", "eval", "synth", "calibrate")
_BLOCK = re.compile(r"((?:^<!--.*?-->\n)*)^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r'<!-- not run(?: "(.+?)")?: (.+?) -->', re.DOTALL)
pytestmark = pytest.mark.skipif(not PAGES, reason="runs in a source checkout")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and what of it is not run."""

    language: str
    text: str
    skipped: tuple[str, ...] | None  # parts of lines; None: all of it

    def lines(self) -> list[str]:
        """Lines that hold something, without comments."""
        return [line.partition(" #")[0].rstrip() for line in self.text.splitlines() if line.strip()]

    def runs(self, line: str) -> bool:
        return self.skipped is not None and not any(part in line for part in self.skipped)


def read_blocks(path: Path) -> list[Block]:
    blocks = []
    for comments, language, text in _BLOCK.findall(path.read_text(encoding="utf-8")):
        marks = _MARK.findall(comments)
        whole = any(not part for part, _ in marks)
        skipped = None if whole else tuple(part for part, _ in marks)
        blocks.append(Block(language, text, skipped))
    return blocks


def is_command(line: str) -> bool:
    return re.match(r"(eft-fast|pip|make|python|curl) ", line) is not None


def commands() -> list[tuple[str, Block, str]]:
    return [
        (page.name, block, line)
        for page in PAGES
        for block in read_blocks(page)
        if not block.language
        for line in block.lines()
        if is_command(line)
    ]


def write_names(folder: Path) -> None:
    """The files that the pages speak of: the shipped sample under other names."""
    photos = folder / "photos"
    shutil.copytree(SAMPLE, photos)
    for name in ("people.json", "person_keypoints.json"):
        shutil.copy(SAMPLE / "people.json", folder / name)
    for name in ("photo.jpg", "skater.jpg", "a.jpg", "b.jpg"):
        shutil.copy(SAMPLE / "runner.png", folder / name)
    (folder / "eft_fast").symlink_to(ROOT / "eft_fast")


def make_names() -> dict[str, Any]:
    """What the Python of the pages takes as given: one person of the sample."""
    import eft_fast
    from eft_fast.data import read_coco

    runner = next(s for s in read_coco(SAMPLE / "people.json", SAMPLE) if "runner" in str(s.image))
    box = runner.bbox_xyxy
    boxes = [[box[0], box[1], box[2] - box[0], box[3] - box[1]]]
    keypoints = runner.keypoints_2d_px[None]
    return {
        "eft_fast": eft_fast, "photos": [str(runner.image)], "keypoints": keypoints, "boxes": boxes,
        "people": [(str(runner.image), keypoints[0], boxes[0])],
        "K": np.array([[300.0, 0, 128], [0, 300, 128], [0, 0, 1]]),
    }  # fmt: skip


def test_the_pages_hold_what_is_run() -> None:
    """The parser of this file sees the blocks: fewer would be a test of nothing."""
    lines = [line for _, block, line in commands() if block.runs(line)]
    assert sum("eft-fast fit" in line for line in lines) >= 4
    assert sum(block.language == "python" for page in PAGES for block in read_blocks(page)) >= 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_marks_belong_to_blocks_and_lines(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = read_blocks(page)
    found = sum(len(_MARK.findall(comments)) for comments, _, _ in _BLOCK.findall(text))
    assert found == text.count("<!-- not run"), "a mark stands directly above its block"
    for block in blocks:
        for part in block.skipped or ():
            assert any(part in line for line in block.lines()), f"{part!r} is in no line"


@pytest.mark.parametrize(("page", "block", "line"), commands(), ids=lambda value: str(value)[:60])
def test_every_command_is_one(page: str, block: Block, line: str) -> None:
    words = shlex.split(line)
    if words[0] == "eft-fast":
        make_program().parse_args(words[1:])
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[0] == "pip":
        # Nothing is published: this checkout, a wheel of it, or other packages are installed.
        assert not any(re.fullmatch(r"eft[-_]fast(\[.*\])?", word) for word in words), line
    elif words[:2] == ["python", "-m"]:
        ours = (ROOT / words[2].replace(".", "/")).with_suffix(".py").is_file()
        assert ours or words[2].partition(".")[0] in sys.stdlib_module_names
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), line


def run_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, *, is_long: bool
) -> int:
    """Run a page's commands in their order; without the long ones, what needs those fails too."""
    write_names(tmp_path)
    monkeypatch.chdir(tmp_path)
    count = 0
    for name, block, line in commands():
        words = shlex.split(line)
        if name != page or words[0] != "eft-fast" or not block.runs(line):
            continue
        if any(part in line for part in LONG) and not is_long:
            continue
        assert main([*words[1:], "--quiet"]) == 0, line
        count += 1
    return count


def test_quick_commands_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_commands(tmp_path, monkeypatch, "README.md", is_long=False) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("page", [page.name for page in PAGES])
def test_all_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    run_commands(tmp_path, monkeypatch, page, is_long=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Path) -> None:
    blocks = [block for block in read_blocks(page) if block.language == "python"]
    if not blocks:
        pytest.skip("no Python on this page")
    write_names(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        code = compile(block.text, str(page), "exec")
        if block.skipped is not None:
            names = names or make_names()
            with torch.random.fork_rng():
                exec(code, names)


def test_the_site_holds_every_page_and_public_name() -> None:
    named = re.findall(r": ([\w.]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(page.name for page in PAGES if page.parent.name == "docs")
    import eft_fast

    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    documented = {line.rpartition(".")[2] for line in named}
    assert documented == {*eft_fast.__all__, "Predictor"} - {"__version__"}


@pytest.mark.slow
def test_the_site_is_built(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="the extra docs is not installed")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "eft_fast").symlink_to(ROOT / "eft_fast")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'id="eft_fast.api.fit_batch"' in (tmp_path / "site/api/index.html").read_text()
