"""Find photos: in folders, by the name that an annotation gives, by the stem."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Final, TypeAlias

from eft_fast.data.values import shown

PathLike: TypeAlias = str | os.PathLike[str]
Photos: TypeAlias = PathLike | Iterable[PathLike]

#: Endings of the files that count as photos, in lower case.
PHOTO_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
)


def list_photos(paths: Photos) -> list[Path]:
    """List photos in a steady order.

    A file stands for itself. A folder stands for the photos of its ``images`` folder if it has one
    (a dataset root), else for the photos directly in it, else for all below it; numbers in names
    are sorted as numbers. Hidden files and folders are passed over, and nothing is listed twice.

    Args:
        paths: A file or folder, or several.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If a file is not a photo by its ending, or a folder holds none.
    """
    found: dict[Path, None] = {}
    for path in _as_paths(paths, "list_photos"):
        if path.is_dir():
            found.update(dict.fromkeys(_photos_of_folder(path)))
        elif path.suffix.lower() not in PHOTO_SUFFIXES:
            raise ValueError(
                f"list_photos: {path} is not a photo by its name; expected an ending of "
                f"{_suffixes()}"
            )
        else:
            found[path] = None
    return list(found)


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sort key that takes runs of digits as numbers: frame 9 comes before frame 10."""
    parts = re.split(r"([0-9]+)", text.lower())
    # Digits are compared by their number and then as text: int() refuses endless ones, and takes
    # none of the other scripts' digits, which count as letters here.
    return [_key_of(part) for part in parts if part]


def _key_of(part: str) -> tuple[int, int, str]:
    if not (part.isascii() and part.isdigit()):
        return 1, 0, part
    digits = part.lstrip("0")
    return 0, len(digits), digits


def is_file(path: Path) -> bool:
    """Whether there is such a file; False for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def shortest_names(paths: Sequence[str]) -> list[str]:
    """Base name of each path; with as many folders in front as tell equal ones apart.

    The same path twice is one photo. ``a/1.jpg`` and ``b/1.jpg`` keep their folder, ``2.jpg`` of
    ``c/2.jpg`` needs none.
    """
    by_name: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for path in paths:
        by_name[PurePath(path).name][path] = None
    shortest: dict[str, str] = {}
    for name, same in by_name.items():
        if len(same) == 1:
            shortest[next(iter(same))] = name
            continue
        parts = {path: PurePath(path).parts for path in same}
        depth = 2
        while len({tails[-depth:] for tails in parts.values()}) < len(same):
            depth += 1
            if depth > max(map(len, parts.values())):
                break
        shortest.update({path: "/".join(tails[-depth:]) for path, tails in parts.items()})
    return [shortest[path] for path in paths]


def _as_paths(paths: Photos, who: str) -> list[Path]:
    several = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not several:
        raise ValueError(f"{who}: expected at least one file or folder, got none")
    result = [Path(path) for path in several]
    for path in result:
        if not exists(path):
            raise FileNotFoundError(f"{who}: no file or folder {shown(path)}")
    return result


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; False for names that none can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _suffixes() -> str:
    return ", ".join(sorted(PHOTO_SUFFIXES))


def _photos_of_folder(folder: Path) -> list[Path]:
    if (folder / "images").is_dir():
        photos = list(_walk(folder / "images"))
    else:
        photos = [path for path in folder.iterdir() if _is_photo(path) and path.is_file()]
        photos = photos or list(_walk(folder))
    if not photos:
        others = Counter(path.suffix.lower() for path in folder.iterdir() if path.is_file())
        seen = ", ".join(
            f"{count} {suffix or 'without ending'}" for suffix, count in others.items()
        )
        raise ValueError(
            f"list_photos: no photo in the folder {folder} (files there: {seen or 'none'}); "
            f"expected files ending in {_suffixes()}"
        )
    return sorted(photos, key=lambda path: natural_key(path.as_posix()))


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")


def _walk(folder: Path) -> Iterator[Path]:
    """All photos at any depth below a folder, hidden folders left out."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in files if _is_photo(Path(name)))


class PhotoFinder:
    """Find the photo that an annotation names among the files and folders that the user gave.

    Attributes:
        is_selection: The user gave files and no folder. Then a photo that is not among them is not
            wanted, while one that is missing from a folder is.
    """

    def __init__(self, photos: Photos, who: str) -> None:
        """Take what the user gave; ``who`` opens the sentences of errors."""
        self._who = who
        paths = _as_paths(photos, who)
        self._folders = [path for path in paths if path.is_dir()]
        self._files = [path for path in paths if not path.is_dir()]
        self.is_selection = not self._folders
        self._by_name: dict[str, list[Path]] | None = None
        self._by_stem: dict[str, list[Path]] = {}

    def find(self, file_name: str) -> Path:
        """The photo with this name, which may start with folders.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If there are several, and the folders in the name do not tell them apart.
        """
        name = PurePosixPath(file_name.replace("\\", "/"))
        if not name.is_absolute() and ".." not in name.parts:
            for folder in self._folders:
                if is_file(folder / name):
                    return folder / name
        return self._only(self._index().get(name.name, []), name)

    def find_stem(self, stem: str) -> Path:
        """The photo whose name without ending is ``stem``, which may start with folders.

        Errors as in ``find``.
        """
        self._index()
        name = PurePosixPath(stem.replace("\\", "/"))
        return self._only(self._by_stem.get(name.name, []), name)

    def expected(self, file_name: str) -> Path:
        """Where the photo would have been."""
        name = PurePosixPath(file_name.replace("\\", "/")).name
        return self._folders[0] / name if self._folders else Path(name)

    def stems(self) -> set[str]:
        """Names without ending of all photos."""
        self._index()
        return set(self._by_stem)

    def _index(self) -> dict[str, list[Path]]:
        if self._by_name is None:
            by_name: defaultdict[str, dict[Path, None]] = defaultdict(dict)
            for path in self._files:
                by_name[path.name][path] = None
            for folder in self._folders:
                for path in _walk(folder):
                    by_name[path.name][path] = None
            self._by_name = {name: list(paths) for name, paths in by_name.items()}
            for paths in self._by_name.values():
                for path in paths:
                    self._by_stem.setdefault(path.stem, []).append(path)
        return self._by_name

    def _only(self, candidates: list[Path], name: PurePosixPath) -> Path:
        if not candidates:
            where = self._folders[0] if self._folders else "the given files"
            raise FileNotFoundError(f"{self._who}: no photo {shown(str(name))} in {where}")
        agreement = [_common_tail(path.parent.parts, name.parent.parts) for path in candidates]
        best = [path for path, n in zip(candidates, agreement, strict=True) if n == max(agreement)]
        if len(best) > 1:
            raise ValueError(
                f"{self._who}: {len(best)} photos are called {shown(str(name))}, "
                f"{shown(best[0])} and {shown(best[1])}; give the folder of "
                "one of them"
            )
        return best[0]


def _common_tail(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Number of last parts that two paths share."""
    count = 0
    for left, right in zip(reversed(a), reversed(b), strict=False):
        if left != right:
            break
        count += 1
    return count
