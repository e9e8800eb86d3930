"""People found in photos whose people are labelled: ``python -m benchmarks.people LABELS PHOTOS``.

``LABELS`` is a file of COCO person keypoints. A labelled person is found by a box whose
intersection over union with the label is a half or more; the surest box chooses first. ``others``
are boxes that found nobody: ghosts, people without a label, and people whose label reaches
elsewhere. Keypoints count for people with ten labels or more and a box of 8,000 square pixels or
more; those of missed people count as wrong. ``--pictures`` draws the boxes of photos with others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageDraw

from eft_fast.imaging import load_image
from eft_fast.models import detect_people
from eft_fast.models.detector import Detection
from eft_fast.person_boxes import box_overlap

#: Longer side of the boxes and labels that are counted, in photo pixels.
LEAST_SIDE: Final = 64
LEAST_OVERLAP: Final = 0.5
LEAST_KEYPOINTS: Final = 10
LEAST_AREA: Final = 8000


def match(found: list[Detection], labels: list[np.ndarray]) -> dict[int, int]:
    """Number of the detection of each labelled box that has one."""
    detection_of: dict[int, int] = {}
    for number, person in enumerate(found):
        free = [index for index in range(len(labels)) if index not in detection_of]
        best = max(free, key=lambda index: box_overlap(person.box, labels[index]), default=None)
        if best is not None and box_overlap(person.box, labels[best]) >= LEAST_OVERLAP:
            detection_of[best] = number
    return detection_of


def keypoint_errors(person: dict[str, Any], found: Detection | None) -> np.ndarray:
    """Distances of labelled keypoints over the root of the box area; infinite where missed."""
    given = np.reshape(np.asarray(person["keypoints"], float), (17, 3))
    given_at = given[:, 2] > 0
    if found is None:
        return np.full(given_at.sum(), np.inf)
    far = np.linalg.norm(found.keypoints[given_at, :2] - given[given_at, :2], axis=1)
    return np.asarray(far / np.sqrt(np.prod(person["bbox"][2:])))


def draw(
    photo: np.ndarray, found: list[Detection], labels: list[np.ndarray], others: list[int]
) -> Image.Image:
    """Labels green, boxes blue, others red with their keypoints."""
    picture = Image.fromarray(photo)
    pen = ImageDraw.Draw(picture)
    for x, y, w, h in labels:
        pen.rectangle((x, y, x + w, y + h), outline=(0, 220, 0))
    for number, person in enumerate(found):
        x, y, w, h = person.box
        color = (255, 0, 0) if number in others else (0, 90, 255)
        pen.rectangle((x, y, x + w, y + h), outline=color, width=2)
        pen.text((x + 3, y + 3), f"{person.score:.2f}", fill=color)
        for px, py, score in person.keypoints if number in others else ():
            if score > 0.2:
                pen.ellipse((px - 2, py - 2, px + 2, py + 2), fill=color)
    return picture


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.people", description=__doc__)
    parser.add_argument("labels", type=Path)
    parser.add_argument("photos", type=Path, help="folder of the photos")
    parser.add_argument("--rounds", type=int, default=3, help="of the times")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of photos with others")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    content = json.loads(options.labels.read_text())
    counts = dict.fromkeys(("labelled", "found", "boxes", "others", "large", "large_found"), 0)
    errors, photos = [], []
    for image in content["images"]:
        photo = load_image(options.photos / image["file_name"])
        people = [
            person
            for person in content["annotations"]
            if person["image_id"] == image["id"] and not person.get("iscrowd")
        ]
        labels = [np.array(person["bbox"], float) for person in people]
        found = detect_people(photo)
        photos.append(photo)
        detection_of = match(found, labels)
        for index, person in enumerate(people):
            is_found = index in detection_of
            if labels[index][2:].max() >= LEAST_SIDE:
                counts["labelled"] += 1
                counts["found"] += is_found
            if (
                person["num_keypoints"] >= LEAST_KEYPOINTS
                and labels[index][2:].prod() >= LEAST_AREA
            ):
                counts["large"] += 1
                counts["large_found"] += is_found
                errors.append(
                    keypoint_errors(person, found[detection_of[index]] if is_found else None)
                )
        large = [k for k, person in enumerate(found) if person.box[2:].max() >= LEAST_SIDE]
        others = [number for number in large if number not in detection_of.values()]
        counts["boxes"] += len(large)
        counts["others"] += len(others)
        for number in others:
            box = " ".join(f"{value:.0f}" for value in found[number].box)
            print(f"other: {image['file_name']} box {box} score {found[number].score:.2f}")
        if others and options.pictures:
            options.pictures.mkdir(parents=True, exist_ok=True)
            name = Path(image["file_name"]).with_suffix(".png").name
            draw(photo, found, labels, others).save(options.pictures / name)
    far = np.concatenate(errors) if errors else np.zeros(0)
    print(
        f"found {counts['found']} of {counts['labelled']} labelled people of {LEAST_SIDE} pixels; "
        f"{counts['boxes']} boxes, {counts['others']} of them others"
    )
    print(
        f"{counts['large_found']} of {counts['large']} people with {LEAST_KEYPOINTS} keypoints and "
        f"{LEAST_AREA} square pixels; PCK@0.1 {(far < 0.1).mean():.3f}, PCK@0.05 "
        f"{(far < 0.05).mean():.3f} of {len(far)} keypoints"
    )
    seconds = []
    for _ in range(options.rounds):
        start = time.process_time()
        for photo in photos:
            detect_people(photo)
        seconds.append((time.process_time() - start) / len(photos))
    print(
        f"processor time of one thread: {statistics.median(seconds):.3f} s a photo, "
        f"{min(seconds):.3f} at least, {len(photos)} photos"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
