"""Motion capture of an outsider: converted, then drawn and measured on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eft_fast.cli.main import main
from tests.data.motion.rigs import (
    MIXAMO,
    random_angles,
    rest_joints,
    write_acclaim,
    write_amass,
    write_bvh,
)


def write_all(folder: Path) -> None:
    (folder / "KIT" / "3").mkdir(parents=True)
    write_acclaim(folder, rest_joints()[:22], random_angles(24, 22, size=10), np.zeros((22, 3)))
    write_bvh(folder / "9_1.bvh", MIXAMO, rest_joints(), random_angles(4, 24, size=10))
    write_amass(folder / "KIT" / "3" / "a_poses.npz", np.zeros((24, 156)), np.zeros((24, 3)))


def test_convert_reads_all_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all(tmp_path / "in")
    (tmp_path / "in" / "bad_1.bvh").write_text("no")
    out = tmp_path / "out"
    assert main(["motion", "convert", str(tmp_path / "in"), "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert summary["recordings"] == summary["subjects"] == 3
    assert summary["frames"] == 2 + 4 + 2
    assert all(summary["splits"].values())
    assert "left out" in said.err
    assert "is it a BVH file?" in said.err
    with np.load(out / "motion.npz") as archive:
        assert archive["pose"].shape == (8, 72)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--joint", "lsho"], "--joint must be NAME=OWN"),
        (["--rate", "0"], "--rate must be above 0"),
        (["--asf", "gone.asf"], "--asf must be a file, there is none"),
        (["--split", "dev"], "--split must be one of"),
    ],
)
def test_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], words: str
) -> None:
    write_all(tmp_path / "in")
    command = ["motion", "convert", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *extra]
    assert main(command) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_to_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    command = ["motion", "convert", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "no file of .amc, .bvh, .npz in" in capsys.readouterr().err
    (tmp_path / "in" / "a.bvh").write_text("no")
    assert main(command) == 2
    assert "none of 1 files could be read; read_bvh: a.bvh" in capsys.readouterr().err


@pytest.mark.slow
def test_openbench_on_converted_motion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all(tmp_path / "in")
    out, bench = tmp_path / "out", tmp_path / "bench"
    assert main(["motion", "convert", str(tmp_path / "in"), "--out", str(out), "--quiet"]) == 0
    command = ["eval", "openbench", "--motion", str(out), "--count", "2", "--out", str(bench)]
    assert main([*command, "--noise", "0", "--methods", "regressor", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["poses"] == "motion"
