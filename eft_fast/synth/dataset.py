"""Sets of rendered pairs in shards: written by several processes, resumed where they stopped."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from tqdm import tqdm

from eft_fast.archives import NUMPY_ERRORS
from eft_fast.body import load_body
from eft_fast.conventions import BOX_UNIT
from eft_fast.files import make_folder, save_npz
from eft_fast.imaging import Crop, crop_image
from eft_fast.synth.config import SynthConfig
from eft_fast.synth.motion import Split
from eft_fast.synth.render import Renderer, make_renderer
from eft_fast.synth.sample import SynthSample

#: Makes the stored rows of a picture: of its number, and of everybody in it.
MakeRows = Callable[[int, Sequence[SynthSample]], list[dict[str, np.ndarray]]]
#: Key of a shard that says what made it.
ORIGIN: Final = "origin"


@dataclass(frozen=True)
class SynthArrays:
    """Rendered pairs, stacked; the meaning of each field is that of ``SynthSample``."""

    image: UInt8[np.ndarray, "N S S 3"]
    rotmat: Float[np.ndarray, "N 24 3 3"]
    betas: Float[np.ndarray, "N 10"]
    transl: Float[np.ndarray, "N 3"]
    joints: Float[np.ndarray, "N 24 3"]
    landmarks: Float[np.ndarray, "N 27 3"]
    landmarks_2d: Float[np.ndarray, "N 27 3"]
    camera: Float[np.ndarray, "N 3"]

    def __len__(self) -> int:
        return len(self.image)

    def cropped(self, zoom: float, size: int) -> SynthArrays:
        """The same people in the middle of their pictures, for a network of another crop.

        Labels follow, and tell as before what could be seen in the whole picture.

        Args:
            zoom: Side of the part over that of the picture; beyond 1 the rest is black.
            size: Side of the new pictures, pixels.
        """
        if zoom == 1 and self.image.shape[1:3] == (size, size):
            return self
        image = resize_crops(self.image, size, zoom=zoom)
        landmarks = np.concatenate(
            [self.landmarks_2d[..., :2] / zoom, self.landmarks_2d[..., 2:]], -1
        ).astype(np.float32)
        camera = (self.camera / zoom).astype(np.float32)
        return replace(self, image=image, landmarks_2d=landmarks, camera=camera)


def resize_crops(
    images: UInt8[np.ndarray, "N S S 3"], size: int, *, zoom: float = 1.0
) -> UInt8[np.ndarray, "N size size 3"]:
    """The middle of square pictures, resampled as a photo is; see ``SynthArrays.cropped``."""
    old = images.shape[1]
    if zoom == 1 and old == size:
        return images
    # As ``imaging`` has it: pixel k of S lies at 2 k / S - 1.
    part = Crop(np.array([old / 2, old / 2]), zoom * old / BOX_UNIT, size)
    return np.stack([crop_image(each, part) for each in images])


@dataclass(frozen=True)
class SynthJob:
    """A set to render.

    Attributes:
        out: Folder of the shards.
        split: "train", "test" or "val".
        count: Images.
        motion: Folder of motion capture; None: poses drawn from the shipped prior.
        backgrounds: Folder of photographs, or None.
        body: Source of the body model, as ``load_body`` takes it.
        config: How images look.
        shard_size: Images of one file.
    """

    out: Path
    split: Split
    count: int
    motion: Path | None = None
    backgrounds: Path | None = None
    body: str = "open"
    config: SynthConfig = field(default_factory=SynthConfig)
    shard_size: int = 250

    def shard_path(self, shard: int) -> Path:
        """Return the file of shard number ``shard``."""
        return self.out / f"{self.split}-{shard:05d}.npz"

    def indices(self, shard: int) -> range:
        """Return the numbers of the images of shard number ``shard``."""
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, self.count))

    @property
    def num_shards(self) -> int:
        """Files of the set."""
        return -(-self.count // self.shard_size)

    def origin(self, shard: int) -> str:
        """Return what the images of a shard depend on, as it is stored beside them."""
        facts = {
            "split": self.split,
            "first": shard * self.shard_size,
            "body": self.body,
            "motion": None if self.motion is None else self.motion.name,
            "backgrounds": None if self.backgrounds is None else self.backgrounds.name,
            "config": asdict(self.config),
        }
        return json.dumps(facts, sort_keys=True)


def render_shards(job: SynthJob, *, processes: int = 1, progress: bool = True) -> list[Path]:
    """Render a set; shards that are there already are kept if they are of this set.

    A shard that holds fewer or more images than it should, as the last one does after another
    ``count``, is rendered again.

    Args:
        job: What to render.
        processes: Worker processes; 1 renders in this one. Images do not depend on it.
        progress: Whether to show a bar on stderr.

    Returns:
        The files, in order of the images.

    Raises:
        ValueError: If a shard is there that other options made.
    """
    make_folder(job.out)
    todo = [s for s in range(job.num_shards) if not _is_done(job, s)]
    write_shards(job, todo, _labelled_person, processes=processes, progress=progress)
    return [job.shard_path(s) for s in range(job.num_shards)]


def _is_done(job: SynthJob, shard: int) -> bool:
    """Whether a shard of the job is there; one of another job raises ValueError."""
    path = job.shard_path(shard)
    if not path.is_file():
        return False
    try:
        with np.load(path, allow_pickle=False) as archive:
            count = len(archive["betas"])
            # Shards of earlier versions say nothing; their size is seen.
            stored = str(archive[ORIGIN]) if ORIGIN in archive.files else None
            size = archive["image"].shape[1] if stored is None else job.config.size
    except NUMPY_ERRORS:
        return False
    is_same = stored is None or _complete(stored) == json.loads(job.origin(shard))
    if size != job.config.size or not is_same:
        raise ValueError(
            f"render_shards: {path} must be of the options asked for (seed {job.config.seed}, size "
            f"{job.config.size}), got one of others; name another folder, or remove it"
        )
    return count == len(job.indices(shard))


def _complete(origin: str) -> dict[str, Any]:
    """Facts of a shard; options younger than it have their defaults, which draw nothing."""
    facts: dict[str, Any] = json.loads(origin)
    defaults = json.loads(json.dumps(asdict(SynthConfig())))
    facts["config"] = _filled(facts.get("config", {}), defaults)
    return facts


def _filled(given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    parts = {k: _filled(given.get(k, {}), v) for k, v in defaults.items() if isinstance(v, dict)}
    return defaults | given | parts


def load_shards(paths: Iterable[str | Path], *, images: bool = True) -> SynthArrays:
    """Read shards and stack them.

    Args:
        paths: The files.
        images: Read the pictures; without, ``image`` is [N, 0, 0, 3] and only labels take memory.

    Raises:
        FileNotFoundError: If a shard is missing.
        ValueError: If there is none.
    """
    parts: list[dict[str, np.ndarray]] = []
    for path in paths:
        if not Path(path).is_file():
            raise FileNotFoundError(f"load_shards: no file {path}; render the set first")
        with np.load(path, allow_pickle=False) as archive:
            part = {key: archive[key] for key in archive.files if images or key != "image"}
        part.setdefault("image", np.empty((len(part["betas"]), 0, 0, 3), np.uint8))
        parts.append(part)
    if not parts:
        raise ValueError("load_shards: at least one shard expected, got none")
    names = [f.name for f in fields(SynthArrays)]
    return SynthArrays(**{name: np.concatenate([part[name] for part in parts]) for name in names})


def stack_samples(samples: Iterable[SynthSample]) -> SynthArrays:
    """Stack single pairs, in order."""
    rows = list(samples)
    names = [f.name for f in fields(SynthArrays)]
    return SynthArrays(**{name: np.stack([getattr(row, name) for row in rows]) for name in names})


@lru_cache(maxsize=1)
def _renderer_of(job: SynthJob) -> Renderer:
    """Build the renderer of a job, once per process."""
    return make_renderer(
        load_body(job.body), job.motion, job.split, backgrounds=job.backgrounds, config=job.config
    )


def write_shards(
    job: SynthJob,
    todo: Sequence[int],
    make_rows: MakeRows,
    *,
    processes: int = 1,
    progress: bool = True,
) -> None:
    """Render some shards of a set, with a bar of their images on stderr.

    Args:
        job: The set.
        todo: Numbers of the shards.
        make_rows: Makes what is stored of an image; picklable, so that workers can run it.
        processes: Worker processes; 1 renders in this one.
        progress: Whether to show the bar.
    """
    write = _ShardWriter(job, make_rows)
    done = job.count - sum(len(job.indices(shard)) for shard in todo)
    with tqdm(
        total=job.count, initial=done, desc=f"render {job.split}", unit="img", disable=not progress
    ) as bar:
        if processes <= 1 or len(todo) <= 1:
            for shard in todo:
                bar.update(write(shard))
            return
        # Fork would copy the locks of torch's threads; spawn starts clean.
        with multiprocessing.get_context("spawn").Pool(min(processes, len(todo))) as workers:
            for count in workers.imap_unordered(write, todo):
                bar.update(count)


@dataclass(frozen=True)
class _ShardWriter:
    """Renders the images of one shard and writes their rows."""

    job: SynthJob
    make_rows: MakeRows

    def __call__(self, shard: int) -> int:
        """Write shard number ``shard`` and return how many images it has."""
        torch.set_num_threads(1)
        renderer, indices = _renderer_of(self.job), self.job.indices(shard)
        rows = []
        for index in indices:
            rows += self.make_rows(index, renderer.draw_people(renderer.scene(index)))
        arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        arrays[ORIGIN] = np.array(self.job.origin(shard))
        save_npz(self.job.shard_path(shard), arrays, compressed=False)
        return len(indices)


def _labelled_person(index: int, people: Sequence[SynthSample]) -> list[dict[str, np.ndarray]]:
    """The picture and the labels of the person that the crop is around."""
    return [{item.name: getattr(people[0], item.name) for item in fields(SynthArrays)}]
