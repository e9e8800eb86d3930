from __future__ import annotations

from pathlib import Path

import pytest

from eft_fast.data.photos import PhotoFinder, list_photos, natural_key


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_folder_is_sorted_with_numbers_as_numbers(tmp_path: Path) -> None:
    touch(tmp_path, "f10.jpg", "f9.JPG", "f1.png", "g.webp", "notes.txt", ".hidden.jpg")
    assert names(list_photos(tmp_path)) == ["f1.png", "f9.JPG", "f10.jpg", "g.webp"]
    assert names(list_photos(str(tmp_path))) == names(list_photos([tmp_path]))


def test_natural_key_orders_mixed_names() -> None:
    given = ["b2", "10", "b", "2", "a10b3", "a10b20", "a9"]
    assert sorted(given, key=natural_key) == ["2", "10", "a9", "a10b3", "a10b20", "b", "b2"]


def test_dataset_root_means_its_images_folder(tmp_path: Path) -> None:
    touch(tmp_path, "logo.png", "images/b/2.jpg", "images/a/3.jpg", "images/1.jpg", "out/x.png")
    assert names(list_photos(tmp_path)) == ["1.jpg", "3.jpg", "2.jpg"]


def test_folder_of_folders(tmp_path: Path) -> None:
    touch(tmp_path, "seq2/1.jpg", "seq10/1.jpg", ".cache/1.jpg")
    assert list_photos(tmp_path) == [tmp_path / "seq2/1.jpg", tmp_path / "seq10/1.jpg"]
    touch(tmp_path, "direct.jpg")
    assert names(list_photos(tmp_path)) == ["direct.jpg"]


def test_files_keep_their_order_and_come_once(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.jpg", "c.jpg")
    assert names(list_photos([tmp_path / "b.jpg", tmp_path])) == ["b.jpg", "a.jpg", "c.jpg"]


def test_errors(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", "phone/a.heic", "phone/b.heic", "phone/README")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"list_photos: no file or folder .*gone.jpg"):
        list_photos(tmp_path / "gone.jpg")
    with pytest.raises(ValueError, match=r"notes.txt is not a photo by its name; .*\.jpg"):
        list_photos(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"no photo in the folder .*empty \(files there: none\)"):
        list_photos(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"2 \.heic, 1 without ending|1 without ending, 2 \.heic"):
        list_photos(tmp_path / "phone")
    with pytest.raises(ValueError, match="at least one file or folder, got none"):
        list_photos([])


def test_finder_in_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.jpg", "val/1.jpg", "val/2.jpg", "3.jpg")
    finder = PhotoFinder(tmp_path, "me")
    assert not finder.is_selection
    assert finder.find("3.jpg") == tmp_path / "3.jpg"
    assert finder.find("val/1.jpg") == tmp_path / "val/1.jpg"
    assert finder.find("2.jpg") == tmp_path / "val/2.jpg"
    assert finder.find("coco\\train\\1.jpg") == tmp_path / "train/1.jpg"
    assert finder.find_stem("2") == tmp_path / "val/2.jpg"
    with pytest.raises(ValueError, match=r"me: 2 photos are called 1.jpg, .*; give the folder"):
        finder.find("1.jpg")
    with pytest.raises(FileNotFoundError, match=r"me: no photo 4.jpg in"):
        finder.find("4.jpg")
    assert finder.expected("a/4.jpg") == tmp_path / "4.jpg"


def test_finder_stays_in_the_folder(tmp_path: Path) -> None:
    """A name in an annotation file reaches no photo that the user did not point at."""
    touch(tmp_path, "secret.jpg", "photos/1.jpg")
    finder = PhotoFinder(tmp_path / "photos", "me")
    for name in ("../secret.jpg", str(tmp_path / "secret.jpg")):
        with pytest.raises(FileNotFoundError, match=r"no photo"):
            finder.find(name)


def test_finder_among_files(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.jpg", "val/1.jpg", "val/2.jpg")
    finder = PhotoFinder([tmp_path / "train/1.jpg", tmp_path / "val/2.jpg"], "me")
    assert finder.is_selection
    assert finder.find("1.jpg") == tmp_path / "train/1.jpg"
    assert finder.find("val2017/2.jpg") == tmp_path / "val/2.jpg"
    with pytest.raises(FileNotFoundError, match=r"no photo 3.jpg in the given files"):
        finder.find("3.jpg")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        PhotoFinder([tmp_path / "gone"], "me")


def test_a_long_path_is_told_by_its_end(tmp_path: Path) -> None:
    long = tmp_path / "/".join(["folder"] * 60) / "mine.jpg"
    with pytest.raises(FileNotFoundError, match=r"no file or folder \.\.\.\S*folder/mine\.jpg$"):
        list_photos(long)
