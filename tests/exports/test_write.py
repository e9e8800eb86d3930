"""Bodies of a run to a folder."""

from __future__ import annotations

import numpy as np
import pytest

from eft_fast.exports import BodyOptions, write_bodies
from tests.exports.test_glb import Reader


def test_tracks_become_motions(make_fits, tmp_path):
    """Rows of one track are frames of one file; who is not finite is left out."""
    fits = make_fits(5)
    fits.params.betas[3] = float("nan")
    names, tracks = [f"{k}.jpg" for k in range(5)], ["a", "b", "a", "a", "b"]
    for kind in ("glb", "bvh"):
        files = write_bodies(fits, names, tmp_path / kind, kind, tracks=tracks)
        assert [file.name for file in files] == [f"00001_track_a.{kind}", f"00002_track_b.{kind}"]
    reader = Reader(tmp_path / "glb" / "00001_track_a.glb")
    sampler = reader.gltf.animations[0].samplers[0]
    assert len(reader.array(sampler.input)) == 2
    assert "Frames: 2\n" in (tmp_path / "bvh" / "00002_track_b.bvh").read_text()
    files = write_bodies(fits, names, tmp_path / "obj", "obj", tracks=tracks)
    assert [file.name for file in files] == [f"0000{k + 1}_{k}.obj" for k in (0, 1, 2, 4)]


@pytest.mark.parametrize("kind", ["ply", "glb"])
def test_feet_on_the_ground(make_fits, tmp_path, kind):
    fits = make_fits(1)
    options = BodyOptions(feet_on_ground=True)
    (file,) = write_bodies(fits, ["a.jpg"], tmp_path, kind, options=options)
    expected = fits.vertices()[0].numpy() * [1, -1, -1]
    expected[:, 1] -= expected[:, 1].min()
    if kind == "glb":
        found = Reader(file).skinned()[0]
    else:
        data = file.read_bytes().split(b"end_header\n")[1]
        found = np.frombuffer(data, "<f4", 3 * len(expected)).reshape(-1, 3)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_refuses_in_one_sentence(make_fits, tmp_path):
    fits = make_fits(2)
    with pytest.raises(ValueError, match="kind must be one of obj, ply, glb, bvh, usd, got 'fbx'"):
        write_bodies(fits, ["a", "b"], tmp_path / "x", "fbx")
    with pytest.raises(ValueError, match="one name per fit expected, got 1 for 2 fits"):
        write_bodies(fits, ["a"], tmp_path / "x", "glb")
    with pytest.raises(ValueError, match="one track per fit expected, got 1 for 2 fits"):
        write_bodies(fits, ["a", "b"], tmp_path / "x", "glb", tracks=["t"])
    assert not (tmp_path / "x").exists()
