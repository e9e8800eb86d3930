from __future__ import annotations

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from eft_fast.body import load_body
from eft_fast.result import FitResult, Prediction, SmplParams
from eft_fast.viz.view3d import write_view


@pytest.fixture
def result() -> FitResult:
    eye = torch.eye(3)
    params = SmplParams(torch.zeros(3, 10), eye.expand(3, 1, 3, 3), eye.expand(3, 23, 3, 3))
    nan = torch.full((3,), float("nan"))
    return FitResult(
        params=params, pred_cam=torch.ones(3, 3), init=Prediction(params, torch.ones(3, 3)),
        bbox_center=torch.zeros(3, 2), bbox_scale=torch.ones(3), loss=nan, init_loss=nan,
        kp_error_px=torch.tensor([1.234, float("nan"), 2]), init_kp_error_px=torch.ones(3),
        steps=torch.zeros(3, dtype=torch.int64), stop_reason=("converged",) * 3,
        message=("",) * 3, keypoints=torch.zeros(3, 17, 3), joint_set="coco17",
        body_id="open-1", regressor_id="open-1", method="eft", mode="full", _body=load_body(),
    )  # fmt: skip


def content_of(page: str) -> dict:
    found = re.search(r'<script id="content" type="application/json">(.*?)</script>', page, re.S)
    return json.loads(found[1])


def test_the_page_holds_the_bodies(result, tmp_path):
    names = ["a.jpg", "</script><b>&", "c.jpg"]
    path = tmp_path / "sub" / "view.html"
    assert write_view(path, result, names) == 3
    page = path.read_text()
    code = re.sub(r'<script id="content".*?</script>', "", page, flags=re.S)
    assert not re.search(r"https?:|//|src=|@import|fetch\(|<link", code)  # nothing is loaded
    content = content_of(page)
    assert [person["name"] for person in content["people"]] == names
    assert content["people"][0]["after"] == 1.23
    assert content["people"][1]["after"] is None
    faces = np.frombuffer(base64.b64decode(content["faces"]), "<u4").reshape(-1, 3)
    assert np.array_equal(faces, load_body().faces)
    mesh = content["people"][2]["meshes"]["final"]
    data = np.frombuffer(base64.b64decode(mesh["data"]), "<u2").reshape(-1, 3)
    points = np.array(mesh["low"]) + data * np.array(mesh["step"])
    upright = result.vertices()[2].numpy() * [1, -1, -1]
    np.testing.assert_allclose(points, upright, atol=5e-5)


def test_limits_and_failed_fits(result, tmp_path):
    betas = result.params.betas.clone()
    betas[0] = float("nan")
    result = replace(result, params=replace(result.params, betas=betas))
    assert write_view(tmp_path / "view.html", result, list("abc"), limit=1) == 1
    page = (tmp_path / "view.html").read_text()
    assert content_of(page)["people"][0]["name"] == "b"
    assert "1 further people" in page
    assert "1 people have no finite fit" in page
    assert write_view(tmp_path / "none.html", result[:1], ["a"]) == 0
    assert not (tmp_path / "none.html").exists()
    with pytest.raises(ValueError, match="one name per fit expected"):
        write_view(tmp_path / "view.html", result, ["a"])
    with pytest.raises(ValueError, match="got the folder"):
        write_view(tmp_path, result, list("abc"))
