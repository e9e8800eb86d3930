"""Write the package's detector beside an exported model: two networks, card, samples, licences."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from eft_fast import imaging
from eft_fast.deploy.detector_verify import (
    ANSWER,
    CROPS,
    PICTURE,
    compare_detector,
    detector_problems,
)
from eft_fast.deploy.half_weights import store_halves
from eft_fast.deploy.onnx_graph import EXAMPLE_BATCH, save_onnx, trace_onnx
from eft_fast.deploy.samples import DEMO, photo_crops
from eft_fast.files import save_npz, write_text
from eft_fast.models.identity import HASH_DIGITS, weights_sha256
from eft_fast.models.keypoint_noise import CURVES
from eft_fast.models.movenet import COARSEST, MoveNet
from eft_fast.models.movenet_keypoints import MOVENET_PATHS, load_movenet
from eft_fast.models.yolox import PUBLISHED_PATH, YoloxNano, load_published_yolox, to_bgr
from eft_fast.person_boxes import INPUT_SIZE, STRIDES, letterbox, to_picture
from eft_fast.person_keypoints import CROP_FACTOR, SMALLER_CROPS
from eft_fast.serving.card import SAMPLES_NAME
from eft_fast.serving.detector import PersonFinder
from eft_fast.serving.detector_card import (
    BOXES_NAME,
    DETECTOR_CARD_NAME,
    DETECTOR_FOLDER,
    KEYPOINTS_NAME,
    OUTPUT_NAMES,
    DetectorCard,
)

_LICENCE: Final = "Apache-2.0"
_NOTICE: Final = (
    "boxes: YOLOX-nano, Copyright (c) 2021-2022 Megvii Inc., Apache License 2.0; batch norms "
    "folded, most weights rounded to float16, classes other than the person left out. keypoints: "
    "MoveNet SinglePose Thunder 4, Copyright Google LLC, Apache License 2.0; converted, values "
    "unchanged. http://www.apache.org/licenses/LICENSE-2.0"
)
#: Photos of the samples: one that needs no grey beside it, and one that does in rows and columns.
_PHOTOS: Final = ("cameraman.png", "runner.png")


class BoxesGraph(nn.Module):
    """RGB pictures to cells."""

    def __init__(self, network: YoloxNano) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B N 6"]:
        """Look at each picture."""
        cells: Tensor = self.network(to_bgr(image).to(self.network.stem.weight.dtype))
        return cells


class KeypointsGraph(nn.Module):
    """RGB crops to keypoints in crop pixels, the published read-out included."""

    def __init__(self, network: MoveNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: UInt8[Tensor, "B S S 3"]) -> Float[Tensor, "B 17 3"]:
        """Look at each crop."""
        # The cast comes first: TensorRT refuses to transpose bytes.
        pixels = image.to(self.network.stem.weight.dtype).permute(0, 3, 1, 2) / 255
        points: Tensor = self.network(pixels)
        return points


def add_detector(folder: Path, *, opset: int, eft_fast_version: str) -> None:
    """Export both networks into ``folder/detector`` and check them there.

    Weights are stored in half precision where that loses nothing, which is nearly everywhere: that
    is how they are published.

    Args:
        folder: Where the model is or will be.
        opset: ONNX opset.
        eft_fast_version: For the card.

    Raises:
        RuntimeError: If torch cannot export a network, or a file answers otherwise than torch.
    """
    boxes, keypoints = load_published_yolox(), load_movenet()
    models = {
        BOXES_NAME: _trace_boxes(BoxesGraph(boxes).eval(), opset),
        KEYPOINTS_NAME: _trace_keypoints(KeypointsGraph(keypoints).eval(), opset),
    }
    for model in models.values():
        store_halves(model)
    samples = make_detector_samples(boxes, keypoints)
    card = _make_card(boxes, keypoints, opset, eft_fast_version)
    place = folder / DETECTOR_FOLDER
    place.mkdir()
    # Once without the comparison in the metadata, to make it; then with it.
    _write(place, models, card)
    worst = compare_detector(PersonFinder(folder, provider="cpu"), samples)
    problems = detector_problems(worst)
    if problems:
        raise RuntimeError(
            "export: the exported detector does not pass and was not kept: " + "; ".join(problems)
        )
    _write(place, models, replace(card, max_difference=worst))
    save_npz(place / SAMPLES_NAME, samples)
    for path in (PUBLISHED_PATH, MOVENET_PATHS["thunder"]):
        shutil.copyfile(path.with_suffix(".md"), place / path.with_suffix(".md").name)


def make_detector_samples(boxes: YoloxNano, keypoints: MoveNet) -> dict[str, np.ndarray]:
    """Pictures and crops, and torch's answers to them in double precision.

    Returns:
        ``PICTURE`` with a number -> uint8 [1, h, w, 3], of several shapes; ``CROPS`` uint8
        [N, S, S, 3]; and the answers under the same names with ``ANSWER`` in front.
    """
    samples: dict[str, np.ndarray] = {}
    wide = BoxesGraph(copy.deepcopy(boxes).double()).eval()
    for number, picture in enumerate(_pictures()):
        samples[f"{PICTURE}{number}"] = picture[None]
        samples[f"{ANSWER}{PICTURE}{number}"] = _answer(wide, picture[None])
    crops = np.stack(list(photo_crops(keypoints.input_size)))
    samples[CROPS] = crops
    samples[ANSWER + CROPS] = _answer(
        KeypointsGraph(copy.deepcopy(keypoints).double()).eval(), crops
    )
    return samples


def _pictures() -> list[UInt8[np.ndarray, "h w 3"]]:
    """Photos of the package as the network of boxes sees them: a square, a row and a column."""
    pictures = []
    for name in _PHOTOS:
        photo = imaging.load_image(DEMO / name)
        pictures.append(to_picture(photo, letterbox(photo))[0])
    upper = np.ascontiguousarray(imaging.load_image(DEMO / _PHOTOS[0])[:300])
    for photo in (upper, np.ascontiguousarray(upper.transpose(1, 0, 2))):
        pictures.append(to_picture(photo, letterbox(photo))[0])
    return pictures


@torch.no_grad()
def _answer(graph: Callable[[Tensor], Tensor], images: np.ndarray) -> np.ndarray:
    return graph(torch.from_numpy(images)).numpy().astype(np.float32)


def _trace_boxes(graph: BoxesGraph, opset: int) -> Any:
    """Height and width are open, too: whole cells of the coarsest grid."""
    cell = STRIDES[-1]
    cells = INPUT_SIZE // cell
    sides = {
        axis: cell * torch.export.Dim(name, min=1, max=cells)
        for axis, name in ((1, "rows"), (2, "columns"))
    }
    # Two sizes that differ, so that none is taken for the other.
    example = torch.zeros(EXAMPLE_BATCH, 7 * cell, 9 * cell, 3, dtype=torch.uint8)
    return trace_onnx(graph, example, sides, [OUTPUT_NAMES[BOXES_NAME]], opset)


def _trace_keypoints(graph: KeypointsGraph, opset: int) -> Any:
    """The side is open, too: whole cells of the coarsest map."""
    size = graph.network.input_size
    side = COARSEST * torch.export.Dim("cells", min=1, max=size // COARSEST)
    example = torch.zeros(EXAMPLE_BATCH, size, size, 3, dtype=torch.uint8)
    return trace_onnx(graph, example, {1: side, 2: side}, [OUTPUT_NAMES[KEYPOINTS_NAME]], opset)


def _make_card(
    boxes: YoloxNano, keypoints: MoveNet, opset: int, eft_fast_version: str
) -> DetectorCard:
    hashes = [weights_sha256(boxes), weights_sha256(keypoints)]
    noise = CURVES["detector"]
    return DetectorCard(
        boxes=f"yolox-nano:{hashes[0][:HASH_DIGITS]}",
        keypoints=f"movenet-{keypoints.variant}:{hashes[1][:HASH_DIGITS]}",
        weights_sha256=hashes,
        picture_size=INPUT_SIZE,
        crop_size=keypoints.input_size,
        smaller_crops=[list(pair) for pair in SMALLER_CROPS],
        crop_factor=CROP_FACTOR,
        joint_set="coco17",
        noise_confidence=noise.confidence.tolist(),
        noise_sigma=noise.sigma.tolist(),
        noise_source=noise.source,
        opset=opset,
        licence=_LICENCE,
        notice=_NOTICE,
        eft_fast_version=eft_fast_version,
        exported=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _write(place: Path, models: dict[str, Any], card: DetectorCard) -> None:
    for name, model in models.items():
        save_onnx(model, card, place / name)
    write_text(place / DETECTOR_CARD_NAME, card.to_json())
