"""Build the demo of examples/web: a static folder, complete, for any server of files.

    python tools/build_web.py --out build/web                    # exports the regressor first
    python tools/build_web.py --out build/web --export exported

``exported`` comes from ``eft-fast export --outputs vertices --detector``. ONNX Runtime comes from
npm, of the version below, checked by its hash; it stays in ``--runtime``.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast import person_boxes
from eft_fast.body import load_body
from eft_fast.conventions import SCALE_SHIFT
from eft_fast.serving.card import CARD_NAME, MODEL_NAMES, load_card
from eft_fast.serving.detector_card import BOXES_NAME, DETECTOR_CARD_NAME, DETECTOR_FOLDER

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "examples" / "web"
SHARED: Final = ROOT / "eft_fast" / "viz" / "templates" / "solid.js"
ASSETS: Final = ROOT / "eft_fast" / "assets"
RUNTIME: Final = "onnxruntime-web"
RUNTIME_VERSION: Final = "1.30.0"
RUNTIME_SHA512: Final = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
#: Of the runtime: what the page imports, and what is packed.
RUNTIME_SCRIPT: Final = "ort.wasm.bundle.min.mjs"
RUNTIME_WASM: Final = "ort-wasm-simd-threaded.wasm"
#: Photos that the page offers, and what it calls them.
SAMPLES: Final = {
    "cameraman.png": "photographer", "runner.png": "runner", "sitter.png": "sitter",
}  # fmt: skip
_RUNTIME_LICENCE: Final = """onnxruntime-web, in ort/

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def main() -> None:
    """Build the folder and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "web")
    parser.add_argument("--export", type=Path, help="exported model with vertices and detector")
    parser.add_argument("--runtime", type=Path, default=ROOT / "build" / "npm")
    options = parser.parse_args()
    runtime = fetch_runtime(options.runtime)
    with tempfile.TemporaryDirectory() as scratch:
        export = options.export or export_shipped(Path(scratch) / "export")
        sizes = build(options.out, export, runtime)
    first = sum(size for name, size in sizes.items() if is_fetched(name))
    print(f"{options.out}: {sum(sizes.values()):,} bytes; a first visit loads {first:,} of them")


def export_shipped(folder: Path) -> Path:
    """Export the package's regressor as the page needs it; takes a minute or two."""
    from eft_fast.deploy import ExportConfig, export_regressor
    from eft_fast.models import load_regressor

    config = ExportConfig(outputs="vertices", max_batch=8, detector=True)
    export_regressor(load_regressor(), folder, body=load_body(), config=config)
    return folder


def fetch_runtime(folder: Path) -> Path:
    """The runtime's files out of the npm package, which is fetched once.

    Raises:
        RuntimeError: If npm is not there, or gives another package than the one that was tested.
    """
    dist = folder / f"{RUNTIME}-{RUNTIME_VERSION}"
    if dist.is_dir():
        return dist
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("build_web: npm must be installed; it brings ONNX Runtime for browsers")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [npm, "pack", "--silent", f"{RUNTIME}@{RUNTIME_VERSION}"]
        done = subprocess.run(command, cwd=scratch, check=False, capture_output=True, text=True)
        found = list(Path(scratch).glob("*.tgz"))
        if done.returncode or len(found) != 1:
            raise RuntimeError(f"build_web: npm gives no {RUNTIME} ({done.stderr.strip():.200})")
        digest = base64.b64encode(hashlib.sha512(found[0].read_bytes()).digest()).decode()
        if digest != RUNTIME_SHA512:
            raise RuntimeError(f"build_web: {RUNTIME} {RUNTIME_VERSION} is not the one tested")
        taken = Path(scratch) / "taken"
        taken.mkdir()
        with tarfile.open(found[0]) as archive:
            for name in (RUNTIME_SCRIPT, RUNTIME_WASM):
                member = archive.extractfile(f"package/dist/{name}")
                assert member is not None
                (taken / name).write_bytes(member.read())
        taken.rename(dist)
    return dist


def build(out: Path, export: Path, runtime: Path) -> dict[str, int]:
    """Write the page, the runtime, the networks and what they need.

    Args:
        out: Folder to write; what was in it goes.
        export: Folder that ``eft-fast export --outputs vertices --detector`` wrote.
        runtime: From ``fetch_runtime``.

    Returns:
        Bytes of each file, by its name in the folder.

    Raises:
        FileNotFoundError: If the export has no detector.
        ValueError: If it lacks vertices, or is of a body that is not the package's.
    """
    card, body = load_card(export), load_body()
    if "vertices" not in card.outputs or card.camera_convention != SCALE_SHIFT:
        raise ValueError(f"build_web: {export} has no vertices; export with --outputs vertices")
    if card.outputs["vertices"][0] != body.arrays.num_vertices or not card.body.startswith("open"):
        raise ValueError(f"build_web: {export} is of body {card.body}, whose licence may forbid it")
    detector = export / DETECTOR_FOLDER
    if not (detector / BOXES_NAME).is_file():
        raise FileNotFoundError(f"build_web: {export} has no detector; export with --detector")
    if (out / "files.json").is_file():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    for source in sorted(PAGE.glob("*.*")):
        shutil.copyfile(source, out / source.name)
    shutil.copyfile(SHARED, out / SHARED.name)
    _place(out / "ort" / RUNTIME_SCRIPT, (runtime / RUNTIME_SCRIPT).read_bytes())
    _pack(out / "ort" / RUNTIME_WASM, (runtime / RUNTIME_WASM).read_bytes())
    _pack(out / "model" / "model.onnx", _with_halves(export / MODEL_NAMES["onnx"]))
    _pack(out / "detector" / "boxes.onnx", (detector / BOXES_NAME).read_bytes())
    _place(out / "model" / "export.json", (export / CARD_NAME).read_bytes())
    _place(out / "detector" / "detector.json", (detector / DETECTOR_CARD_NAME).read_bytes())
    _place(out / "faces.bin", np.asarray(body.faces, "<u4").tobytes())
    _place(out / "settings.json", _json(make_settings()))
    for name in SAMPLES:
        _place(out / "samples" / name, (ASSETS / "demo" / name).read_bytes())
    listed = [{"file": f"samples/{name}", "name": said} for name, said in SAMPLES.items()]
    _place(out / "samples.json", _json(listed))
    _write_licences(out)
    sizes = {
        path.relative_to(out).as_posix(): path.stat().st_size
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }
    _place(out / "files.json", _json(sizes))
    return sizes


def make_settings() -> dict[str, Any]:
    """The numbers of the search for people, as the package has them."""
    return {
        "strides": person_boxes.STRIDES,
        "leastScore": person_boxes.LEAST_SCORE,
        "mostOverlap": person_boxes.MOST_OVERLAP,
        "leastSide": person_boxes.LEAST_SIDE,
        "fill": person_boxes.FILL,
        "mostLog": person_boxes.MOST_LOG,
    }


def is_fetched(name: str) -> bool:
    """Whether a first visit loads the file."""
    return not name.startswith(("samples/", "licences/", "LICENSE", "NOTICE"))


def _with_halves(path: Path) -> bytes:
    """The model with the weights that are float16 numbers stored as such: the same answers."""
    import onnx

    from eft_fast.deploy.half_weights import store_halves

    model = onnx.load(path)
    store_halves(model)
    data: bytes = model.SerializeToString()
    return data


def _place(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _pack(path: Path, data: bytes) -> None:
    """Packed by gzip, which the page unpacks: not every server packs what it sends."""
    _place(path.with_name(path.name + ".pack"), gzip.compress(data, 9, mtime=0))


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _write_licences(out: Path) -> None:
    for name in ("LICENSE", "NOTICE"):
        shutil.copyfile(ROOT / name, out / name)
    cards = ("open_body.md", "open_regressor.md", "yolox_nano.md", "demo/SOURCE.md")
    for name in cards:
        _place(out / "licences" / Path(name).name, (ASSETS / name).read_bytes())
    _place(out / "licences" / "onnxruntime-web.txt", _RUNTIME_LICENCE.encode())


if __name__ == "__main__":
    main()
