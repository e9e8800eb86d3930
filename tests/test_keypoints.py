from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from eft_fast import keypoints as kp

SETS = sorted(kp.JOINT_SETS)


def partner(name: str, names: tuple[str, ...]) -> str:
    """The same joint on the other side, by its name."""
    prefix, rest = ("op_", name[3:]) if name.startswith("op_") else ("", name)
    other = {"l": "r", "r": "l"}.get(rest[0])
    swapped = f"{prefix}{other}{rest[1:]}" if other else name
    return swapped if swapped in names else name


def test_tables_equal_the_fixture(shared_dir):
    fixture = json.loads((shared_dir / "fixtures" / "joint_maps.json").read_text())
    for name, table in fixture.items():
        ours = kp.JOINT_SETS[name]
        assert list(ours.names) == table["names"], name
        assert list(ours.flip) == table["flip"], name
        assert list(ours.to_j24) == table["to_j24"], name


@pytest.mark.parametrize("name", SETS)
def test_set_is_consistent(name):
    """Sizes agree, names are unique, and the flip pairs left with right."""
    order = kp.JOINT_SETS[name]
    assert len(order) == len(order.names) == len(order.flip) == len(order.to_j24)
    assert len(order.to_op25) == len(order) == len(set(order.names))
    assert [order.names[i] for i in order.flip] == [partner(n, order.names) for n in order.names]
    assert [order.flip[i] for i in order.flip] == list(range(len(order)))
    assert set(order.approx) <= set(order.names)


@pytest.mark.parametrize("name", SETS)
def test_places_agree_with_names_and_flips(name):
    """A joint goes to the place of its own name, and mirrored joints to mirrored places."""
    order = kp.JOINT_SETS[name]
    j24 = kp.JOINT_SETS["j24"]
    for index, place in enumerate(order.to_j24):
        if place != kp.NO_JOINT:
            assert order.names[index] == j24.names[place]
            assert order.to_j24[order.flip[index]] == j24.flip[place]
    op25 = kp.JOINT_SETS["op25"]
    for index, place in enumerate(order.to_op25):
        if place != kp.NO_JOINT:
            assert order.names[index].removeprefix("op_") == op25.names[place]
            assert order.to_op25[order.flip[index]] == op25.flip[place]


def test_spin49_sources_agree_with_the_flip():
    """Left and right sources of the 54 are left and right slots of the 49."""
    smpl45 = kp.JOINT_SETS["smpl45"].flip
    flip54 = [*smpl45, 46, 45, *range(47, 54)]
    sources = kp.SPIN49_SOURCES
    assert [flip54[s] for s in sources] == [sources[i] for i in kp.spin49_flip]
    assert len(kp.LANDMARKS) == 9
    assert len(kp.SMPL45_VERTICES) == 21


def test_coco_goes_to_the_annotation_block():
    points = np.arange(17 * 3, dtype=np.float64).reshape(17, 3) + 1
    slots = kp.to_spin49(points, "coco17")
    assert slots.dtype == np.float64
    assert not slots[:25].any()
    np.testing.assert_array_equal(slots[25 + 5], points[15])  # left ankle
    np.testing.assert_array_equal(slots[25 + 19], points[0])  # nose
    assert (slots[:, 2] > 0).sum() == 17


def test_openpose_fills_both_blocks_and_feet_stay_in_the_first():
    points = np.ones((2, 25, 3)) * np.arange(1, 26)[:, None]
    slots = kp.to_spin49(points, "openpose")
    np.testing.assert_array_equal(slots[:, :25], points)
    np.testing.assert_array_equal(slots[:, 25 + 7], points[:, 3])  # right elbow
    feet = kp.to_spin49(np.ones((33, 3)), "mp33")
    assert [i for i in range(25) if feet[i, 2]] == [19, 21, 22, 24]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_points_that_are_not_finite_are_not_labelled(bad):
    points = np.ones((17, 3), np.float32)
    points[0, 0] = bad
    points[1, 2] = 0
    points[2, 2] = np.nan
    slots = kp.to_spin49(points, "coco17")
    assert np.isfinite(slots).all()
    assert (slots[:, 2] > 0).sum() == 14
    assert not slots[25 + 20].any()  # unlabelled points leave no coordinates behind


def test_points_in_space_keep_four_columns():
    slots = kp.to_spin49(np.ones((3, 24, 4)), "j24")
    assert slots.shape == (3, 49, 4)


def test_edges_join_joints_of_the_set():
    names = kp.JOINT_SETS["coco17"].names
    edges = kp.JOINT_SETS["coco17"].edges
    assert ("lsho", "lelb") in {(names[a], names[b]) for a, b in edges}
    assert len(edges) == 16


def test_sets_travel_between_processes():
    for order in kp.JOINT_SETS.values():
        assert pickle.loads(pickle.dumps(order)) == order


def test_unknown_set_names_close_ones():
    with pytest.raises(ValueError, match=r"got 'cocoo17'; did you mean .*coco17"):
        kp.joint_set("cocoo17")
    with pytest.raises(ValueError, match=r"h36m17_Jreg"):
        kp.joint_set("h36m17")
    with pytest.raises(ValueError, match="use one of j24"):
        kp.joint_set("zzzz")


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"must be \[\.\.\., 17, 3\] for coco17, got \[25, 3\]"):
        kp.to_spin49(np.ones((25, 3)), "coco17")
    with pytest.raises(TypeError, match="array of numbers"):
        kp.to_spin49(np.array([["a", "b", "c"]] * 17), "coco17")
    assert kp.to_spin49(np.ones((17, 3), int), "coco17").dtype == np.float32
