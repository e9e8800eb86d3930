from __future__ import annotations

import pickle
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from eft_fast.body import Smpl
from eft_fast.body.arrays import BodyArrays
from eft_fast.body.model_io import load_arrays, to_smplx_arrays
from eft_fast.keypoints import LANDMARKS, SMPL45_VERTICES
from tests.helpers import make_tiny_arrays


@pytest.fixture(scope="module")
def open_arrays() -> BodyArrays:
    return load_arrays("open")


def save(folder: Path, name: str, content: dict) -> Path:
    path = folder / name
    if name.endswith(".npz"):
        np.savez(path, **content)
    else:
        path.write_bytes(pickle.dumps(content))
    return path


def tiny_content() -> dict:
    return to_smplx_arrays(make_tiny_arrays(), np.float64)


def assert_same_model(ours: BodyArrays, expected: BodyArrays, atol: float = 0) -> None:
    for name in ("v_template", "faces", "shapedirs", "posedirs", "J_regressor", "parents"):
        np.testing.assert_allclose(
            getattr(ours, name), getattr(expected, name), rtol=0, atol=atol, err_msg=name
        )
    np.testing.assert_allclose(ours.weights_dense(), expected.weights_dense(), rtol=0, atol=1e-15)


def test_open_body(open_arrays):
    """The shipped body: sizes, id, landmarks, and rows that sum to 1."""
    arrays = open_arrays
    assert arrays.model_id == arrays.family == "open-1"
    assert arrays.v_template.shape == (6890, 3)
    assert arrays.faces.shape == arrays.faces_uv.shape == (13768, 3)
    assert set(LANDMARKS) <= set(arrays.keypoint_rows)
    assert arrays.vertex_picks.tolist() == list(SMPL45_VERTICES)
    np.testing.assert_allclose(arrays.weights_dense().sum(1), 1, atol=2e-7)
    np.testing.assert_allclose(arrays.J_regressor.sum(1), 1, atol=1e-6)
    mirror = arrays.sym_idx
    np.testing.assert_array_equal(mirror[mirror], np.arange(6890))
    for field in fields(arrays):
        value = getattr(arrays, field.name)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            assert value.dtype == np.float64, field.name


@pytest.mark.parametrize("name", ["body.npz", "body.pkl"])
def test_smplx_names(tmp_path, name):
    arrays = load_arrays(save(tmp_path, name, tiny_content()))
    assert_same_model(arrays, make_tiny_arrays())
    assert arrays.model_id.startswith("custom-")
    assert len(arrays.model_id) == len("custom-") + 12
    assert arrays.vertex_picks is None


def test_custom_ids_follow_the_mesh(tmp_path):
    content = tiny_content()
    first = load_arrays(save(tmp_path, "a.npz", content)).model_id
    assert load_arrays(save(tmp_path, "b.pkl", content)).model_id == first
    content["v_template"] = content["v_template"] + 0.001
    assert load_arrays(save(tmp_path, "c.npz", content)).model_id != first


def test_smpl_files_as_they_come(tmp_path):
    """300 shape columns, a sparse regressor, root parent 4294967295, uint32 faces."""
    sparse = pytest.importorskip("scipy.sparse")
    content = tiny_content()
    more = np.zeros((37, 3, 300))
    more[:, :, :10] = content["shapedirs"]
    table = np.stack([content["kintree_table"][0], np.arange(24)]).astype(np.uint32)
    assert table[0, 0] == 4294967295
    content |= {
        "shapedirs": more,
        "J_regressor": sparse.csc_matrix(content["J_regressor"]),
        "kintree_table": table,
        "f": content["f"].astype(np.uint32),
        "bs_style": "lbs",
        "J": np.zeros((24, 3)),
    }
    assert_same_model(load_arrays(save(tmp_path, "body.pkl", content)), make_tiny_arrays())


def test_smplx_objects_and_back(open_arrays):
    """A smplx object made of the open body is recognised, and loses nothing but half precision."""
    smplx = pytest.importorskip("smplx")
    struct = smplx.utils.Struct(**to_smplx_arrays(open_arrays))
    arrays = load_arrays(smplx.SMPL("", data_struct=struct))
    assert arrays.model_id == "open-1"
    assert arrays.vertex_picks.tolist() == list(SMPL45_VERTICES)
    assert_same_model(arrays, open_arrays, atol=1e-8)
    assert set(arrays.keypoint_rows) == set(open_arrays.keypoint_rows)


def test_a_changed_copy_of_the_open_body_is_not_the_open_body(tmp_path, open_arrays):
    """Whatever its file says: fits and regressors are kept by id."""
    content = to_smplx_arrays(open_arrays) | {"model_id": "open-1"}
    assert load_arrays(save(tmp_path, "same.pkl", content)).model_id == "open-1"
    content["v_template"] = content["v_template"] * np.float32(1.01)
    changed = load_arrays(save(tmp_path, "changed.pkl", content))
    assert changed.model_id.startswith("custom-")
    assert not changed.keypoint_rows


def test_arrays_and_bodies_are_taken_as_they_are():
    arrays = make_tiny_arrays()
    assert load_arrays(arrays) is arrays
    assert load_arrays(Smpl(arrays)) is arrays


def test_other_smplx_models_are_refused():
    class Hands:
        v_template = J_regressor = lbs_weights = np.zeros((5, 3))

    with pytest.raises(TypeError, match=r"source must be .open., a path or"):
        load_arrays(3)
    with pytest.raises(ValueError, match="expected an array f or faces, got none in a Hands"):
        load_arrays(Hands())


def licensed(open_arrays: BodyArrays) -> dict:
    """A stand-in with SMPL's sizes, made of the open body: eight faces twice."""
    faces = np.concatenate([open_arrays.faces, open_arrays.faces[:8]])
    return to_smplx_arrays(replace(open_arrays, faces=faces))


@pytest.mark.parametrize(
    ("name", "model_id"),
    [
        ("SMPL_NEUTRAL.pkl", "smpl-neutral"),
        ("SMPL_MALE.npz", "smpl-male"),
        ("basicModel_f_lbs_10_207_0_v1.0.0.pkl", "smpl-female"),
        ("basicmodel_m_lbs_10_207_0_v1.1.0.pkl", "smpl-male"),
        ("mine.npz", "smpl-unknown"),
        ("smpl_f32_neutral.pkl", "smpl-neutral"),
        ("smpl_neutral_m.pkl", "smpl-neutral"),
        ("smpl_male_or_female.pkl", "smpl-unknown"),
        ("scan_m.pkl", "smpl-unknown"),
    ],
)
def test_smpl_is_known_by_its_sizes(tmp_path, open_arrays, name, model_id):
    arrays = load_arrays(save(tmp_path, name, licensed(open_arrays)))
    assert arrays.model_id == model_id
    assert arrays.family == "smpl"
    assert arrays.vertex_picks.tolist() == list(SMPL45_VERTICES)
    assert not arrays.keypoint_rows


def test_files_are_found_through_the_environment(tmp_path, monkeypatch):
    save(tmp_path, "body.npz", tiny_content())
    monkeypatch.setenv("EFT_FAST_MODELS", str(tmp_path))
    assert load_arrays("body.npz").num_vertices == 37
    with pytest.raises(FileNotFoundError, match=f"no file other.npz in . or {tmp_path}"):
        load_arrays("other.npz")


def test_missing_files_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("EFT_FAST_MODELS", raising=False)
    with pytest.raises(FileNotFoundError, match=r"load_body: no file SMPL_NEUTRAL.pkl in .*; give"):
        load_arrays(tmp_path / "SMPL_NEUTRAL.pkl")
    with pytest.raises(ValueError, match="expected a file, got the folder"):
        load_arrays(tmp_path)


def test_damaged_files_are_named(tmp_path):
    whole = save(tmp_path, "whole.npz", tiny_content()).read_bytes()
    for name, data, message in (
        ("empty.npz", b"", "the empty file"),
        ("empty.pkl", b"", "the empty file"),
        ("cut.npz", whole[: len(whole) // 2], "damaged or other file"),
        ("text.npz", b"hello, this is text", "damaged or other file"),
        ("other.npz", pickle.dumps({}), "damaged or other file"),
        ("text.pkl", b"hello, this is text", "damaged or other file"),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message) as error:
            load_arrays(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_damage_inside_an_archive_is_named(tmp_path):
    path = tmp_path / "body.npz"
    np.savez_compressed(path, **tiny_content())
    data = bytearray(path.read_bytes())
    data[400:440] = b"\0" * 40
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="damaged or other file"):
        load_arrays(path)


def changed(key: str, value) -> dict:
    content = tiny_content()
    content[key] = value(content[key]) if callable(value) else value
    return content


def with_entry(index, entry):
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[index] = entry
        return array

    return change


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("v_template", np.zeros((37, 2)), r"v_template of shape \[n, 3\], got \[37, 2\]"),
        ("v_template", np.zeros((0, 3)), r"v_template of shape \[n, 3\], got \[0, 3\]"),
        ("v_template", with_entry(3, np.nan), "finite numbers in v_template, got NaN"),
        ("posedirs", with_entry((0, 0, 0), np.inf), "finite numbers in posedirs"),
        ("posedirs", np.zeros((37, 3, 93)), r"posedirs of shape \[37, 3, 207\], got \[37, 3, 93\]"),
        ("shapedirs", np.zeros((37, 3, 9)), "at least 10 shape directions, got 9"),
        ("shapedirs", np.zeros((36, 3, 10)), r"shapedirs of shape \[37, 3, n\]"),
        ("f", with_entry((0, 0), 37), "f from 0 to 36, got 0 to 37"),
        ("f", with_entry((0, 0), -1), "f from 0 to 36, got -1"),
        ("weights", np.full((37, 24), 1 / 24), "at most 4 joints per vertex, got 0.83 beyond"),
        ("weights", lambda w: w * 1.01, "rows of weights that sum to 1, got an error of 0.01"),
        ("weights", np.zeros((37, 55)), "SMPL's 24 joints, got SMPL-X"),
        ("J_regressor", lambda j: j * 0.9, "rows of J_regressor that sum to 1"),
        ("J_regressor", np.zeros((55, 37)), r"J_regressor of shape \[24, 37\], got \[55, 37\]"),
        ("kintree_table", with_entry((0, 5), 1), "SMPL's tree of 24 joints, got parents"),
        ("kintree_table", np.zeros((2, 55)), r"kintree_table of shape \[2, 24\]"),
        ("v_template", np.array(["a", "b"]), "v_template as numbers, got <U1"),
    ],
)
def test_wrong_models_are_named(tmp_path, key, value, message):
    with pytest.raises(ValueError, match=message) as error:
        load_arrays(save(tmp_path, "body.npz", changed(key, value)))
    assert str(error.value).startswith("load_body: expected ")


@pytest.mark.parametrize("key", ["v_template", "f", "posedirs", "weights", "kintree_table"])
@pytest.mark.parametrize("name", ["body.npz", "body.pkl"])
def test_missing_arrays_are_named(tmp_path, key, name):
    content = tiny_content()
    del content[key]
    with pytest.raises(ValueError, match=rf"expected an array .*{key}.*, got none in .*{name}"):
        load_arrays(save(tmp_path, name, content))


def test_pickled_objects_in_an_npz_are_refused(tmp_path):
    content = changed("J_regressor", np.array([{"a": 1}], object))
    with pytest.raises(ValueError, match="J_regressor as plain numbers, got pickled objects"):
        load_arrays(save(tmp_path, "body.npz", content))
    with pytest.raises(ValueError, match=r"J_regressor in .* must be an array of numbers, got"):
        load_arrays(save(tmp_path, "body.pkl", content))


def test_broken_csr_rows_are_named(tmp_path, open_arrays):
    from eft_fast.body.normalise import asset_path

    with np.load(asset_path()) as file:
        content = dict(file)
    content["kp_indptr"] = content["kp_indptr"][::-1].copy()
    with pytest.raises(ValueError, match="kp_indptr that rises from 0"):
        load_arrays(save(tmp_path, "body.npz", content))
    content["kp_indptr"] = np.zeros(3, np.uint16)
    with pytest.raises(ValueError, match=r"kp_indptr of shape \[22\], got \[3\]"):
        load_arrays(save(tmp_path, "body.npz", content))


def test_numbers_of_a_custom_body_survive_float32():
    """The default export rounds once, to single precision."""
    arrays = make_tiny_arrays()
    for name, value in to_smplx_arrays(arrays).items():
        if value.dtype.kind == "f":
            assert value.dtype == np.float32, name


def scaled(open_arrays: BodyArrays, factor: float) -> dict:
    content = licensed(open_arrays)
    return content | {key: content[key] * factor for key in ("v_template", "shapedirs", "posedirs")}


@pytest.mark.parametrize(
    ("factor", "hint"), [(1000, "looks like millimetres"), (100, "looks like centimetres"), (9, "")]
)
def test_bodies_of_other_units_are_refused(tmp_path, open_arrays, factor, hint):
    with pytest.raises(ValueError, match=rf"0\.4 to 3\.0 m tall along y, got .*{hint}"):
        load_arrays(save(tmp_path, "body.pkl", scaled(open_arrays, factor)))


def test_bodies_of_other_axes_are_refused(tmp_path, open_arrays):
    content = licensed(open_arrays)
    z_up = content["v_template"][:, [0, 2, 1]] * [1, -1, 1]
    with pytest.raises(ValueError, match="looks like z up"):
        load_arrays(save(tmp_path, "z.pkl", content | {"v_template": z_up}))
    y_down = content["v_template"] * [1, -1, -1]
    with pytest.raises(ValueError, match="got the head below the ankles"):
        load_arrays(save(tmp_path, "down.pkl", content | {"v_template": y_down}))


def test_infants_are_no_adults(tmp_path, open_arrays):
    """SMIL has SMPL's topology and other shape directions."""
    arrays = load_arrays(save(tmp_path, "smpl_neutral.pkl", scaled(open_arrays, 0.4)))
    assert arrays.model_id == arrays.family == "smil"
    assert arrays.vertex_picks is not None


@pytest.mark.parametrize(("joints", "kind"), [(52, "SMPL-H"), (55, "SMPL-X"), (16, "MANO")])
def test_other_models_are_named(tmp_path, joints, kind):
    content = tiny_content() | {"weights": np.eye(joints)[np.arange(37) % joints]}
    with pytest.raises(ValueError, match=f"expected SMPL's 24 joints, got {kind}"):
        load_arrays(save(tmp_path, "body.npz", content))


def test_archives_that_grow_are_refused(tmp_path):
    """A megabyte of zeros that were five hundred."""
    path = tmp_path / "body.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("v_template.npy", "w") as member:
            for _ in range(520):
                member.write(bytes(2**20))
    with pytest.raises(ValueError, match=r"an archive of at most .* bytes unpacked, got 5452"):
        load_arrays(path)
