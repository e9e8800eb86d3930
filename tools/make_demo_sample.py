"""Make the renders and the annotations of the demo's sample in eft_fast/assets/demo.

The photograph and its keypoints are kept as they are; the renders are drawn anew, the same for the
same motion files: held-out poses, no photographs behind them, keypoints known exactly.

    python tools/make_demo_sample.py --motion FOLDER_OF_MOCAP
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eft_fast.body import load_body
from eft_fast.keypoints import joint_set
from eft_fast.synth import SynthSample, make_renderer

DEMO = Path(__file__).resolve().parent.parent / "eft_fast" / "assets" / "demo"
#: Image of the test split -> file name.
RENDERS = {9: "runner.png", 18: "sitter.png"}


def main() -> None:
    """Write the renders and people.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--motion", required=True, type=Path, help="folder of mocap files")
    options = parser.parse_args()
    document = json.loads((DEMO / "people.json").read_text())
    photo = {image["id"] for image in document["images"] if image["file_name"] == "cameraman.png"}
    document["images"] = [image for image in document["images"] if image["id"] in photo]
    document["annotations"] = [
        person for person in document["annotations"] if person["image_id"] in photo
    ]
    renderer = make_renderer(load_body(), options.motion, "test")
    for number, (index, name) in enumerate(RENDERS.items(), start=2):
        sample = renderer.render(index)
        Image.fromarray(sample.image).save(DEMO / name, optimize=True)
        height, width = sample.image.shape[:2]
        document["images"].append(
            {"id": number, "file_name": name, "width": width, "height": height}
        )
        document["annotations"].append(annotate(sample, number))
    (DEMO / "people.json").write_text(json.dumps(document, indent=1) + "\n")


def annotate(sample: SynthSample, number: int) -> dict[str, Any]:
    """One COCO person; the renderer's states are COCO's: 2 visible, 1 hidden, 0 outside."""
    size = sample.image.shape[0]
    count = len(joint_set("coco17").names)  # the landmarks begin with COCO's keypoints
    u, state = sample.landmarks_2d[:count, :2], sample.landmarks_2d[:count, 2]
    inside = state > 0
    pixels = np.where(inside[:, None], (u + 1) * size / 2, 0).round(1)
    rows, columns = np.nonzero(sample.mask)
    box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    return {
        "id": number,
        "image_id": number,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [int(value) for value in box],
        "area": int(sample.mask.sum()),
        "num_keypoints": int(inside.sum()),
        "keypoints": np.concatenate([pixels, state[:, None]], axis=1).ravel().tolist(),
    }


if __name__ == "__main__":
    main()
