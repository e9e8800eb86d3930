"""What a review does to a run, without a browser."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from eft_fast.map_rules import BONES
from eft_fast.pseudo_gt import load_verdicts
from eft_fast.result import FitResult
from eft_fast.review.session import FLIPS, ReviewSession


def given_place(session, row=0):
    return int(np.flatnonzero(session.keypoints(row)[:, 2] > 0)[0])


def test_unchanged_keypoints_give_the_fit_of_the_run(open_session, refitter):
    """The refit is the fit of the run, so that what changes comes from the edit alone."""
    session = open_session()
    for row in range(len(session)):
        was = session.result[row]
        refit = refitter.fit(refitter.open(was), session.keypoints(row))
        np.testing.assert_allclose(refit.fit.final.pred_rotmat, was.params.full_pose, atol=1e-3)
        np.testing.assert_allclose(refit.fit.final.pred_cam, was.pred_cam, rtol=1e-3)


def test_a_moved_keypoint_moves_the_body(open_session, run, read_edits):
    session = open_session()
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    place = session.joints.names.index("rwri")
    x, y, _ = session.keypoints(0)[place]
    session.move(0, place, x + 15, y)
    fit = session.current(0)
    wrist = fit.keypoints_2d_px()[0, place]
    was = session.result.keypoints_2d_px()[0, place]
    assert float(wrist[0] - was[0]) > 5
    assert torch.equal(session.current(1).pred_cam, session.result[1].pred_cam)
    assert read_edits()[session.keys[0]]["keypoints"]["rwri"] == [x + 15, y, 1]
    session.save()
    # Nothing of the run is overwritten; the review holds everybody in the run's order.
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    saved = FitResult.load(run / "review" / "fits.npz")
    assert len(saved) == len(session)
    assert saved.photo == session.result.photo
    assert saved.run_id == session.result.run_id
    assert torch.equal(saved[0].params.body_pose, fit.params.body_pose)
    assert torch.equal(saved[1].params.body_pose, session.result[1].params.body_pose)
    assert float(saved.keypoints[0, place, 0]) == pytest.approx(x + 15, abs=1e-3)


def test_a_session_goes_on_where_it_ended(open_session, run):
    session = open_session()
    place = given_place(session)
    session.remove(0, place)
    session.flip(0, "left_forearm")
    session.say(1, "reject", "wrong person")
    fit = session.current(0)
    again = open_session()  # as after a kill: nothing was saved
    assert again.keypoints(0)[place, 2] == 0
    assert again.edits[0].flips == ["left_forearm"]
    assert torch.equal(again.current(0).params.body_pose, fit.params.body_pose)
    assert again.verdicts[again.keys[1]].note == "wrong person"
    assert load_verdicts(run / "review" / "selection.json") == again.verdicts
    (run / "review" / "edits.json").write_text("{}")
    with pytest.raises(ValueError, match="is not what a review wrote"):
        open_session()
    (run / "review" / "edits.json").write_text(
        json.dumps({"format": "eft-fast-review/1", "run_id": "other", "people": {}})
    )
    with pytest.raises(ValueError, match="is a review of another run; move the folder away"):
        open_session()


def depths(result):
    """How far the end of each bone is behind its joint, in the order of FLIPS."""
    places = result.joints3d("smpl24")[0].numpy()
    return np.array([places[end, 2] - places[joint, 2] for joint, end in BONES])


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_the_other_depth_of_a_bone(open_session, rank):
    """The bone leans the other way in depth and stays where it is in the picture."""
    session = open_session()
    was = session.result[0]
    name = FLIPS[np.argsort(-np.abs(depths(was)))[rank]]  # those that lean most
    session.flip(0, name)
    fit = session.current(0)
    joint, end = BONES[FLIPS.index(name)]

    def bone(result):
        places = result.joints3d("smpl24")[0]
        return (places[end] - places[joint]).numpy()

    assert np.sign(bone(fit)[2]) == -np.sign(bone(was)[2])
    assert np.linalg.norm(bone(fit)[:2] - bone(was)[:2]) < 0.1
    assert "flipped" in fit.hypothesis[0]
    session.flip(0, name)
    assert session.edits[0].flips == []
    assert torch.equal(session.current(0).pred_cam, was.pred_cam)


def test_undo_takes_back_one_change_at_a_time(open_session, read_edits):
    session = open_session()
    place = given_place(session)
    points = session.keypoints(0).copy()
    session.move(0, place, 50, 60)
    session.say(0, "keep")
    session.say(1, "reject")
    assert session.undo() == 1
    assert session.undo() == 0
    assert session.verdicts == {}
    assert session.keypoints(0)[place, 0] == 50
    assert session.undo() == 0
    assert np.array_equal(session.keypoints(0), points)
    assert read_edits() == {}
    assert session.undo() is None
    session.move(0, place, 50, 60)
    session.reset(0)
    assert not session.edits
    assert session.undo() == 0
    assert session.keypoints(0)[place, 0] == 50


def test_it_starts_from_the_verdicts_of_the_run(open_session, run):
    key = open_session().keys[0]
    content = {"format": "eft-fast-selection/1", "people": {key: "reject"}}
    (run / "selection.json").write_text(json.dumps(content))
    session = open_session()
    assert session.verdicts[key].verdict == "reject"
    session.say(0, None)
    assert json.loads((run / "selection.json").read_text()) == content
    assert open_session().verdicts == {}


def test_refusals_change_nothing(open_session, refitter, tmp_path):
    session = open_session()
    place = given_place(session)
    points = session.keypoints(0).copy()
    with pytest.raises(ValueError, match="must lie in the photo of"):
        session.move(0, place, -20, 5)
    with pytest.raises(ValueError, match="must lie in the photo of"):
        session.move(0, place, float("nan"), 5)
    with pytest.raises(ValueError, match="keypoint must be 0 to 16 of coco17, got 99"):
        session.move(0, 99, 5, 5)
    with pytest.raises(ValueError, match=r"bone must be one of .*did you mean 'left_forearm'"):
        session.flip(0, "left_forarm")
    with pytest.raises(ValueError, match="verdict must be one of keep, reject"):
        session.say(0, "maybe")
    for k in np.flatnonzero(points[:, 2] > 0)[:-1]:
        session.remove(0, int(k))
    last = int(np.flatnonzero(session.keypoints(0)[:, 2] > 0)[0])
    before = session.keypoints(0).copy()
    with pytest.raises(ValueError, match="at least one keypoint must be given"):
        session.remove(0, last)
    assert np.array_equal(session.keypoints(0), before)
    other = replace(session.result, method="eft")
    by_eft = ReviewSession(other, other.photo, session.keys, tmp_path, lambda: None)
    with pytest.raises(ValueError, match="by map, and these fits are by eft; accept and reject"):
        by_eft.move(0, place, 50, 50)
    by_eft.say(0, "keep")
    assert not by_eft.edits
    failed = replace(session.result, init=replace(session.result.init,
        pred_cam=torch.full((len(session), 3), float("nan"))))  # fmt: skip
    (tmp_path / "n").mkdir()
    without = ReviewSession(failed, failed.photo, session.keys, tmp_path / "n", lambda: refitter)
    with pytest.raises(ValueError, match="this person was not fitted"):
        without.flip(0, "left_thigh")
    gone = replace(session.result, photo=("gone.png",) * len(session))
    lost = ReviewSession(gone, gone.photo, session.keys, tmp_path / "n", lambda: refitter)
    with pytest.raises(ValueError, match=r"no file gone\.png"):
        lost.move(0, place, 5, 5)
    lost.flip(0, "left_thigh")  # which needs no photo
