"""What an exported model says of itself: in its metadata, and in ``export.json`` beside it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from eft_fast.conventions import IMG_MEAN, IMG_STD, SCALE_SHIFT
from eft_fast.folders import finish_replacement

FORMAT: Final = "eft_fast-export-1"
CARD_NAME: Final = "export.json"
HASHES_NAME: Final = "files.json"
#: Stored crops with torch's answers: only ``verify`` reads them, and compares their hash itself.
SAMPLES_NAME: Final = "samples.npz"
#: What fits need beside the model, see ``serving.fitting.asset``.
FIT_NAME: Final = "fit.npz"
#: File of each kind of exported folder, the one that a session opens.
MODEL_NAMES: Final = {
    "onnx": "model.onnx",
    "openvino": "model.xml",
    "triton": "eft_fast/1/model.onnx",
}
INPUT_NAME: Final = "image"
_MOST_PIXELS: Final = 4096
#: What a card means that does not say it: every network took ImageNet's numbers once, and no export
#: had what fits need.
_UNSTATED: Final = {"mean": list(IMG_MEAN), "std": list(IMG_STD), "fit_sha256": ""}
#: Shapes behind the batch dimension; -1 depends on the body.
OUTPUT_SHAPES: Final[Mapping[str, tuple[int, ...]]] = {
    "rotmat": (24, 3, 3),
    "betas": (10,),
    "cam": (3,),
    "joints": (-1, 3),
    "vertices": (-1, 3),
    "confidence": (24,),
}


@dataclass(frozen=True)
class ModelCard:
    """Everything that a program needs to feed the model and to read its answer.

    Attributes:
        regressor: Id of the regressor and hash of its weights, ``open-1:2d9ea62d0ab9f4fd``; the id
            alone in exports of earlier versions.
        weights_sha256: The whole of that hash, see ``models.identity.weights_sha256``.
        source_sha256: Hash of the file that the weights were read from; empty if unknown.
        body: Id of the body that shape and joints belong to.
        outputs: Name and shape of each output, without the batch dimension.
        input_size: Side of the square crop in pixels. The input is ``image``, uint8
            ``[B, S, S, 3]``, RGB, not normalised: that happens inside.
        mean: Mean of the normalisation inside, the regressor's own; ImageNet's where an export
            states none.
        std: Its standard deviation.
        box_margin: Side of the crop over the longer side of the person's box.
        camera_convention: Meaning of ``cam``; ``scale_shift`` is u = s * X + t.
        joint_set: Name of the order of ``joints``; empty without that output.
        joint_names: Name of each row of ``joints``.
        precision: ``fp32``; ``fp16`` or ``int8``: of the trunk, with everything else in fp32;
            ``bf16``: of the products, in OpenVINO.
        opset: ONNX opset.
        max_batch: Largest batch that was verified.
        licence: SPDX expression of weights and body data in the file, as far as known.
        notice: What whoever passes the file on must know.
        eft_fast_version: Version that exported it.
        exported: When, UTC.
        max_difference: Per output, largest difference to torch on the stored samples; ``rotmat``
            in degrees.
        fit_sha256: Hash of ``fit.npz`` beside the model; empty: no fits are possible with it.
        format: Version of this record.
    """

    regressor: str
    weights_sha256: str
    source_sha256: str
    body: str
    outputs: dict[str, list[int]]
    input_size: int
    mean: list[float]
    std: list[float]
    box_margin: float
    camera_convention: str
    joint_set: str
    joint_names: list[str]
    precision: str
    opset: int
    max_batch: int
    licence: str
    notice: str
    eft_fast_version: str
    exported: str
    max_difference: dict[str, float] = field(default_factory=dict)
    fit_sha256: str = ""
    format: str = FORMAT

    def to_strings(self) -> dict[str, str]:
        """The form of ONNX metadata: text stays as it is, everything else is JSON."""
        return {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in asdict(self).items()
        }

    def to_json(self) -> str:
        """The text of ``export.json``."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_strings(cls, values: Mapping[str, str], who: str) -> ModelCard:
        """Read ONNX metadata; ``who`` stands at the head of the error."""
        kinds = {item.name: item.type for item in fields(cls)}
        parsed: dict[str, Any] = {}
        for key, text in values.items():
            try:
                parsed[key] = text if kinds.get(key) == "str" else json.loads(text)
            except (json.JSONDecodeError, RecursionError):
                parsed[key] = text
        return cls.from_mapping(parsed, who)

    @classmethod
    def from_mapping(cls, values: Any, who: str) -> ModelCard:
        """Check and take the values.

        Raises:
            ValueError: If they are from another version, or not complete.
        """
        got = values.get("format") if isinstance(values, Mapping) else None
        if got is None:
            raise ValueError(
                f"{who} is not a model that eft-fast exported: it does not describe itself; run "
                "eft-fast export"
            )
        if got != FORMAT:
            raise ValueError(
                f"{who} must be of format {FORMAT}, got {got!r}; export it again with this version "
                "of eft_fast, or use the one that wrote it"
            )
        values = {**_UNSTATED, **values}
        wanted = {item.name: str(item.type) for item in fields(cls)}
        wrong = [name for name, kind in wanted.items() if not has_kind(values.get(name), kind)]
        if wrong:
            raise ValueError(f"{who} does not describe itself: {wrong[0]} is missing or wrong")
        card = cls(**{name: values[name] for name in wanted})
        card.check_numbers(who)
        card.check_outputs(who)
        return card

    def check_numbers(self, who: str) -> None:
        """Raise ValueError unless crops can be made as the model wants them."""
        finite = all(math.isfinite(value) for value in (*self.mean, *self.std, self.box_margin))
        rules = {
            "input_size": 1 <= self.input_size <= _MOST_PIXELS,
            "box_margin": finite and 0.1 <= self.box_margin <= 10,
            "mean": finite and len(self.mean) == 3,
            "std": finite and len(self.std) == 3 and min(self.std) > 0,
            "max_batch": self.max_batch >= 1,
            "camera_convention": self.camera_convention == SCALE_SHIFT,
        }
        wrong = [name for name, holds in rules.items() if not holds]
        if wrong:
            value = str(getattr(self, wrong[0]))[:80]
            raise ValueError(f"{who} has {wrong[0]} {value}, which no model here has")

    def check_outputs(self, who: str) -> None:
        """Raise ValueError unless names and shapes of the outputs are ones that we know."""
        for name, shape in self.outputs.items():
            known = OUTPUT_SHAPES.get(name)
            if known is None or len(known) != len(shape):
                raise ValueError(f"{who} has an unknown output {name} {shape}")
            if any(k not in (-1, n) for k, n in zip(known, shape, strict=True)):
                raise ValueError(f"{who}: {name} must be {['B', *known]}, got {['B', *shape]}")
        lacking = [name for name in ("rotmat", "betas", "cam") if name not in self.outputs]
        if lacking:
            raise ValueError(f"{who} has no output {lacking[0]}")
        if "joints" in self.outputs and len(self.joint_names) != self.outputs["joints"][0]:
            raise ValueError(f"{who} must name each of its joints")


_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
}


def parse_fields(
    kind: type[Any], text: str, who: str, *, file_format: str, option: str
) -> dict[str, Any]:
    """The fields of a card, a dataclass, from its JSON; what they say is not judged.

    Args:
        kind: The dataclass.
        text: The JSON.
        who: Stands at the head of the error.
        file_format: What ``format`` must be.
        option: Of ``eft-fast export``, which writes such cards.

    Raises:
        ValueError: If it is damaged, from another version, or a field is missing or wrong.
    """
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{who} is damaged ({type(error).__name__})") from error
    got = values.get("format") if isinstance(values, dict) else None
    if got != file_format:
        raise ValueError(
            f"{who} must be of format {file_format}, got {got!r}; run eft-fast export {option} "
            "with this version of eft_fast, or use the one that wrote it"
        )
    kinds = {item.name: str(item.type) for item in fields(kind)}
    wrong = [name for name, each in kinds.items() if not has_kind(values.get(name), each)]
    if wrong:
        raise ValueError(f"{who} does not describe itself: {wrong[0]} is missing or wrong")
    return {name: values[name] for name in kinds}


def has_kind(value: Any, kind: str) -> bool:
    """Whether a value of JSON is what a field of a card, by its annotation, asks for."""
    if kind.startswith("list[") and isinstance(value, list):
        return all(has_kind(item, kind[5:-1]) for item in value)
    if kind.startswith("dict[str, ") and isinstance(value, dict):
        return all(
            isinstance(key, str) and has_kind(item, kind[10:-1]) for key, item in value.items()
        )
    return isinstance(value, _KINDS.get(kind, ())) and not isinstance(value, bool)


@dataclass(frozen=True)
class ModelFiles:
    """Where an exported model lies.

    Attributes:
        path: The file that a session opens.
        kind: What can run it: ``onnx`` or ``openvino``.
        folder: Where card and samples are.
    """

    path: Path
    kind: str
    folder: Path


def find_model(model: str | Path) -> ModelFiles:
    """Find the model of an exported folder, or take the file itself.

    Raises:
        FileNotFoundError: If there is neither.
        ValueError: If it is a file of another kind.
    """
    path = Path(model).expanduser()
    if path.is_file():
        kinds = {".onnx": "onnx", ".xml": "openvino"}
        kind = kinds.get(path.suffix)
        if kind is None:
            raise ValueError(f"serving: expected a folder, .onnx or .xml file, got {path}")
        return ModelFiles(path, kind, path.parent)
    if not path.is_dir():
        raise FileNotFoundError(f"serving: no folder or model {path}; run eft-fast export first")
    finish_replacement(path)
    for kind, name in MODEL_NAMES.items():
        if (path / name).is_file():
            return ModelFiles(path / name, "openvino" if kind == "openvino" else "onnx", path)
    names = " or ".join(MODEL_NAMES.values())
    raise FileNotFoundError(f"serving: {path} holds no {names}; run eft-fast export first")


def check_files(files: ModelFiles) -> None:
    """Raise ValueError if a file of the model is not the one that was exported.

    The hashes are those of ``files.json``: they find damage and files that were exchanged, not
    somebody who writes the hashes as well. A model that lies alone has none.
    """
    path = files.folder / HASHES_NAME
    if not path.is_file():
        return
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"serving: {path} is damaged ({type(error).__name__})") from error
    if not isinstance(stated, dict):
        raise ValueError(f"serving: {path} is damaged; export it again")
    for name, digest in stated.items():
        # Nothing outside of the folder is the model's.
        if Path(name).name == SAMPLES_NAME or Path(name).is_absolute() or ".." in Path(name).parts:
            continue
        file = files.folder / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            raise ValueError(f"serving: {file} is not the file that was exported; export it again")


def load_card(folder: str | Path) -> ModelCard:
    """Read ``export.json`` of an exported folder.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is damaged or from another version.
    """
    path = Path(folder) / CARD_NAME
    if not path.is_file():
        raise FileNotFoundError(f"serving: no {CARD_NAME} in {folder}; run eft-fast export again")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"serving: {path} is damaged ({type(error).__name__})") from error
    return ModelCard.from_mapping(values, f"serving: {path}")
