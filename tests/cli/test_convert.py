"""``eft-fast convert``, ``report`` and ``view`` on what ``fit`` left."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from eft_fast.cli import main
from eft_fast.data.formats.eft_json import load_eft_json
from eft_fast.data.formats.spin_npz import load_spin_npz
from eft_fast.models.open_file import save_open_regressor
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.result import FitResult


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of fits of two rendered people."""
    folder = tmp_path_factory.mktemp("made")
    tiny, photos = folder / "tiny.npz", folder / "photos"
    save_open_regressor(OpenRegressor.make_tiny(), tiny, licence="Apache-2.0", source_sha256="0")
    assert main(["synth", "--out", str(photos), "--n", "2", "--size", "64", "--quiet"]) == 0
    arguments = ["fit", str(photos), "--annotations", str(photos / "annotations.json")]
    arguments += ["--regressor", str(tiny), "--max-steps", "1", "--no-pictures", "--quiet"]
    arguments += ["--min-keypoints", "1", "--min-area", "0", "--out", str(folder / "fits")]
    assert main(arguments) == 0
    return folder / "fits"


@pytest.fixture
def fits(made, tmp_path):
    return shutil.copytree(made, tmp_path / "fits")


def call(capsys, *arguments):
    capsys.readouterr()
    code = main([str(argument) for argument in arguments] + ["--json", "--quiet"])
    out, error = capsys.readouterr()
    return code, json.loads(out) if code == 0 else error


def test_convert_to_labels(fits, tmp_path, capsys):
    result = FitResult.load(fits / "fits.npz")
    for source in (fits, fits / "fits.npz"):
        out = tmp_path / "new" / "fits.json"
        code, summary = call(capsys, "convert", source, "--to", "eft-json", "--out", out)
        assert code == 0
        assert summary == {"fits": 2, "format": "eft-json", "written": 2, "out": str(out)}
        records = load_eft_json(out)
        assert [r.image_name for r in records] == ["train_0000000.png", "train_0000001.png"]
        assert [r.annot_id for r in records] == [1, 2]
        assert np.array_equal(records[1].betas, result.params.betas[1].numpy())
    assert call(capsys, "convert", fits, "--to", "spin-npz", "--out", tmp_path / "s.npz")[0] == 0
    assert np.array_equal(load_spin_npz(tmp_path / "s.npz").betas, result.params.betas.numpy())
    assert call(capsys, "convert", fits, "--to", "amass-npz", "--out", tmp_path / "a.npz")[0] == 0


@pytest.mark.parametrize("kind", ["obj", "ply", "glb", "bvh", "usd"])
def test_convert_to_bodies(fits, tmp_path, capsys, kind):
    if kind == "usd":
        pytest.importorskip("pxr", reason="the extra usd is not installed")
    code, summary = call(capsys, "convert", fits, "--to", kind, "--out", tmp_path / "meshes")
    assert (code, summary["written"]) == (0, 2)
    files = sorted(path.name for path in (tmp_path / "meshes").iterdir())
    assert files == [f"0000{n + 1}_train_000000{n}.{kind}" for n in range(2)]
    if kind == "obj":
        lines = (tmp_path / "meshes" / files[0]).read_text().splitlines()
        points = np.array([line.split()[1:] for line in lines if line[0] == "v"], float)
        expected = FitResult.load(fits / "fits.npz").vertices()[0].numpy() * [1, -1, -1]
        np.testing.assert_allclose(points, expected, atol=1e-6)


def test_convert_selects(fits, tmp_path, capsys):
    out = tmp_path / "x.json"
    base = ["convert", fits, "--to", "eft-json", "--out", out, "--select"]
    base += ["--max-pose", 1e9, "--max-overbend-deg", 360]  # the tiny regressor knows no people
    code, error = call(capsys, *base, "--max-loss-2d", 0)
    assert code == 2
    assert "no fit passes the rules (2 loss_2d)" in error
    code, summary = call(capsys, *base, "--max-loss-2d", 1000, "--max-beta", 1000)
    assert (code, summary["selected"], summary["rejected"]) == (0, 2, {})
    # The untrained network is as sure as it is unsure.
    sure = FitResult.load(fits / "fits.npz").person_confidence
    limits = [
        "--max-loss-2d",
        1000,
        "--max-beta",
        1000,
        "--min-confidence",
        float(sure.max()) + 0.1,
    ]
    code, error = call(capsys, *base, *limits)
    assert code == 2
    assert "no fit passes the rules (2 unsure)" in error


def test_the_report_takes_verdicts_that_convert_obeys(fits, tmp_path, capsys, open_page):
    """Reject one and accept the other with the keyboard, save, convert."""
    assert call(capsys, "report", fits)[0] == 0
    page = open_page(fits / "report.html")
    page.select_option("#order", "number")
    page.focus(".person[aria-current=true]")
    page.keyboard.press("r")
    page.keyboard.press("j")
    page.keyboard.press("a")
    with page.expect_download() as waiting:
        page.keyboard.press("s")
    waiting.value.save_as(fits / "selection.json")
    code, summary = call(capsys, "convert", fits, "--to", "eft-json", "--select",
                         "--out", tmp_path / "kept.json")  # fmt: skip
    assert code == 0
    assert summary["written"] == 1
    assert summary["rejected"]["by_hand"] == 1
    (kept,) = json.loads((tmp_path / "kept.json").read_text())["data"]
    assert "train_0000001" in kept["imageName"]
    # A report that is drawn again knows what was said; a broken file costs a note alone.
    assert call(capsys, "report", fits)[0] == 0
    page = open_page(fits / "report.html")
    assert "1 accepted, 1 rejected; all saved" in page.inner_text("#counts")
    (fits / "selection.json").write_text("{")
    assert main(["report", str(fits)]) == 0
    assert "the report starts without verdicts" in capsys.readouterr().err


def test_the_report_leads_to_the_person_in_space(fits, capsys, open_page):
    """Its links open the 3D page at that person; of whom there is no room there is no link."""
    assert call(capsys, "report", fits, "--view-limit", 1)[0] == 0
    page = open_page(fits / "report.html")
    links = page.locator("a.space")
    assert links.count() == 1
    worst = page.locator(".person").first
    number = worst.get_attribute("data-number")
    assert links.get_attribute("href") == f"./view.html#{number}"
    worst.focus()
    page.keyboard.press("v")
    page.wait_for_selector("#view")
    assert page.url.endswith(f"view.html#{number}")
    assert page.locator("#who option").all_inner_texts()[0].split()[0] == number
    assert call(capsys, "report", fits, "--view-limit", 0)[0] == 0
    assert not (fits / "view.html").exists()
    assert "3D view" not in (fits / "report.html").read_text().split("<script id")[0]


def test_everybody_of_a_photo_in_one_picture(fits, capsys):
    """Of two fits of one photo; a report without the option takes the pictures away."""
    result = FitResult.load(fits / "fits.npz")
    replace(result, photo=(result.photo[0],) * 2).save(fits / "fits.npz")
    code, summary = call(capsys, "report", fits, "--together", "--opacity", 0.5)
    assert (code, summary["together"]) == (0, 1)
    assert [path.name for path in (fits / "together").iterdir()] == ["00001_train_0000000.jpg"]
    assert call(capsys, "report", fits)[0] == 0
    assert not (fits / "together").exists()
    code, error = call(capsys, "report", fits, "--opacity", 2)
    assert code == 2
    assert "--opacity must be at most 1, got 2" in error


def test_the_report_judges_by_the_rules(fits, capsys):
    """What data select counts stands on the page, with the reasons in words."""
    assert call(capsys, "report", fits)[0] == 0
    counted = call(capsys, "data", "select", fits)[1]
    text = (fits / "report.html").read_text()
    people = json.loads(text.split('type="application/json">')[1].split("</script>")[0])["people"]
    for level in ("keep", "doubtful", "reject"):
        assert sum(person["level"] == level for person in people) == counted[level]
    assert all(bool(person["why"]) == (person["level"] != "keep") for person in people)
    assert all(person["error"] > 0 for person in people)
    assert len({person["key"] for person in people}) == 2


def test_report_and_view(fits, capsys):
    code, summary = call(capsys, "report", fits)
    assert (code, summary["without_photo"]) == (0, 0)
    assert len(list((fits / "overlays").iterdir())) == 2
    assert "train_0000001.png" in (fits / "report.html").read_text()
    code, summary = call(capsys, "view", fits, "--limit", 1)
    assert (code, summary["people"], summary["shown"]) == (0, 2, 1)
    assert (fits / "view.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["convert", "{fits}", "--to", "fbx", "--out", "x"], "--to must be one of eft-json"),
        (["convert", "nowhere", "--to", "obj", "--out", "x"], "no file nowhere; run eft-fast fit"),
        (["convert", "{fits}", "--to", "eft-json", "--out", "{fits}"], "got the folder"),
        (["convert", "{fits}", "--to", "obj", "--out", "{fits}/fits.npz"], "got the file"),
        (
            ["convert", "{fits}", "--to", "npz", "--feet-on-ground", "--out", "x"],
            "--feet-on-ground goes with --to obj, ply, glb, bvh, usd, got --to npz",
        ),
        (
            ["convert", "{fits}", "--to", "glb", "--frame-rate", "0", "--out", "x"],
            "--frame-rate must be above 0, got 0",
        ),
        (["report", "nowhere"], "no file nowhere"),
        (["view", "{fits}", "--limit", "0"], "--limit must be at least 1"),
    ],
)
def test_mistakes_are_one_sentence(fits, capsys, arguments, words):
    code, error = call(capsys, *(text.format(fits=fits) for text in arguments))
    assert code == 2
    assert words in error
    assert error.count("\n") == 1


def test_names_must_be_those_of_the_fits(fits, capsys):
    names = json.loads((fits / "people.json").read_text())
    names["photos"].pop()
    (fits / "people.json").write_text(json.dumps(names))
    code, error = call(capsys, "report", fits)
    assert code == 2
    assert "names 1 people of another run" in error
    (fits / "people.json").unlink()
    # The fits name their photos themselves.
    assert call(capsys, "report", fits)[0] == 0
    assert "train_0000000.png" in (fits / "report.html").read_text()
    assert call(capsys, "view", fits)[0] == 0


def test_convert_from_any_format_to_any(fits, tmp_path, capsys):
    """Every format is read again; what it holds of a fit is what the folder of fits holds."""
    from eft_fast.cli.choices import LABEL_FORMATS
    from eft_fast.pseudo_gt import load_fits

    result = FitResult.load(fits / "fits.npz")
    for kind in LABEL_FORMATS:
        out = (
            tmp_path / kind / f"x.{kind.split('-')[-1]}"
            if kind != "eft-pickle"
            else tmp_path / kind
        )
        code, summary = call(capsys, "convert", fits, "--to", kind, "--out", out)
        assert (code, summary["written"]) == (0, 2), kind
        if kind in ("amass-npz", "smpl"):
            out = sorted(out.parent.iterdir())[0]
        npz = tmp_path / f"{kind}.npz"
        code, summary = call(capsys, "convert", out, "--to", "npz", "--out", npz)
        assert (code, summary["out"]) == (0, str(npz)), kind
        if kind not in ("amass-npz", "smpl"):
            back = load_fits(npz).result
            assert np.array_equal(back.params.full_pose, result.params.full_pose), kind
            assert np.array_equal(back.pred_cam, result.pred_cam), kind
            assert np.array_equal(back.bbox_center, result.bbox_center), kind
    folder = tmp_path / "shards"
    assert call(capsys, "convert", fits, "--to", "parquet", "--out", folder)[0] == 0
    assert [path.name for path in folder.iterdir()] == ["shard-00000.parquet"]
    code, error = call(capsys, "convert", tmp_path / "absent", "--to", "npz", "--out", npz)
    assert code == 2
    assert "no file" in error


WIDE = ("--max-loss-2d", 1000, "--max-beta", 1000, "--max-pose", 1e9, "--max-overbend-deg", 360)


def test_select_by_hand(fits, tmp_path, capsys):
    """data select writes the verdicts; convert --select honours them."""
    code, summary = call(capsys, "data", "select", fits)
    assert (code, summary["fits"], summary["by_hand"], summary["file"]) == (0, 2, 0, None)
    assert summary["keep"] + summary["doubtful"] + summary["reject"] == 2
    assert not (fits / "selection.json").exists()
    arguments = ("data", "select", fits, "--reject", "2", "--note", "wrong leg", "--list", "reject")
    code, summary = call(capsys, *arguments)
    assert (code, summary["by_hand"]) == (0, 1)
    assert "by_hand" in next(one["why"] for one in summary["listed"] if one["id"] == "2")
    saved = json.loads((fits / "selection.json").read_text())
    assert saved["people"] == {"2": {"verdict": "reject", "note": "wrong leg"}}
    out = tmp_path / "x.json"
    base = ("convert", fits, "--to", "eft-json", "--out", out)
    code, summary = call(capsys, *base, "--select", *WIDE)
    assert (code, summary["written"], summary["by_hand"]) == (0, 1, 1)
    assert [record.annot_id for record in load_eft_json(out)] == [1]
    # The other way about, in a file of another name.
    other = tmp_path / "other.json"
    assert call(capsys, "data", "select", fits, "--file", other, "--accept", "2")[0] == 0
    code, summary = call(capsys, *base, "--select", other, "--max-loss-2d", "0")
    assert (code, summary["written"]) == (0, 1)
    assert [record.annot_id for record in load_eft_json(out)] == [2]
    assert call(capsys, "data", "select", fits, "--clear", "2")[0] == 0
    code, summary = call(capsys, *base, "--select", *WIDE)
    assert (code, summary["by_hand"], summary["rejected"].get("by_hand")) == (0, 0, None)


def test_wrong_use_of_select(fits, tmp_path, capsys):
    for arguments, words in (
        (["--reject", "99"], "nobody here has the id 99"),
        (["--reject", "1,2", "--accept", "2"], "2 is named twice"),
        (["--note", "x"], "--note goes with --accept or --reject"),
    ):
        code, error = call(capsys, "data", "select", fits, *arguments)
        assert code == 2
        assert words in error
    base = ("convert", fits, "--to", "eft-json", "--out", tmp_path / "x.json")
    code, error = call(capsys, *base, "--select", tmp_path / "absent.json")
    assert code == 2
    assert "--select must be a file of verdicts" in error
    code, error = call(capsys, *base, "--strict")
    assert code == 2
    assert "--strict goes with --select" in error


def test_a_run_tells_who_is_doubtful(fits):
    summary = json.loads((fits / "summary.json").read_text())["selection"]
    assert summary["keep"] + summary["doubtful"] + summary["reject"] == 2
    assert set(summary) == {"keep", "doubtful", "reject", "rejected_by", "doubtful_by"}


def test_names_of_another_run_are_refused(fits, tmp_path, capsys):
    names = json.loads((fits / "people.json").read_text())
    (fits / "people.json").write_text(json.dumps(names | {"run_id": "another"}))
    code, error = call(capsys, "convert", fits, "--to", "eft-json", "--out", tmp_path / "c.json")
    assert code == 2
    assert "of another run" in error
    assert not (tmp_path / "c.json").exists()


def test_meshes_of_an_earlier_conversion_go(fits, tmp_path, capsys):
    out = tmp_path / "meshes"
    out.mkdir()
    for name in ("00009_old.obj", "mine.obj"):
        (out / name).touch()
    assert call(capsys, "convert", fits, "--to", "obj", "--out", out)[0] == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == ["00001_train_0000000.obj", "00002_train_0000001.obj", "mine.obj"]
