from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from data_sets.toys import IMAGES, TRUTH, jpeg, tar_of
from delf_engine.datasets import KNOWN, Dataset, Definition, check, get, getting
from delf_engine.errors import DataError, LockedError
from delf_engine.support.files import locked
from file_server import FileServer
from helpers import raises


def images_of(dataset: Dataset) -> dict[str, bytes]:
    paths = (path for path in dataset.images.rglob("*") if path.is_file())
    return {path.relative_to(dataset.images).as_posix(): path.read_bytes() for path in paths}


def found_wrong(name: str, root: Path) -> dict[str, tuple[str, ...]]:
    return {one.what: one.names for one in check(name, root) if not one.ok}


def test_a_set_is_downloaded_and_unpacked_once(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    found = get("toy", tmp_path, report=lambda *event: seen.append(event))
    assert found.folder == tmp_path / "toy"
    assert images_of(found) == IMAGES
    assert found.missing() == []
    assert found.parts == (1, 2)
    assert (found.folder / "gnd_toy.pkl").read_bytes() == TRUTH
    left = {path.name for path in found.folder.rglob("*") if path.is_file()} - set(IMAGES)
    assert left == {"gnd_toy.pkl", "toy_1.tgz.txt", "toy_2.tgz.txt", ".lock"}
    assert list(dict.fromkeys(what for what, *_ in seen)) == [
        "downloading gnd_toy.pkl",
        *(f"{what} toy_{part}.tgz" for part in (1, 2) for what in ("downloading", "unpacking")),
    ]
    sizes = {what: (done, total) for what, done, total in seen}
    assert sizes["downloading toy_2.tgz"] == (len(server.files["toy_2.tgz"]),) * 2
    before = list(server.requests)
    assert get("toy", tmp_path).missing_parts() == ()
    assert server.requests == before


def test_some_parts_now_and_others_later(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    found = get("toy", tmp_path, parts=[2])
    assert sorted(images_of(found)) == sorted(IMAGES)[4:]
    assert found.missing_parts() == (1,)
    assert get("toy", tmp_path).missing() == []
    assert server.requests.count("toy_2.tgz") == 1
    with raises(DataError, "toy", "1 to 2", "[3]"):
        get("toy", tmp_path, parts=[3])


def test_a_set_that_lost_an_image_gets_its_archive_again(
    server: FileServer, toy: Definition, tmp_path: Path
) -> None:
    found = get("toy", tmp_path)
    (found.images / "toy_1.jpg").unlink()
    assert found.missing_parts() == (1,)
    (found.images / "toy_5.jpg").write_bytes(b"")
    assert found.missing_parts() == (1, 2)
    assert get("toy", tmp_path).missing() == []
    assert server.requests.count("toy_1.tgz") == 2


def test_lists_letters_and_published_md5(server: FileServer, letters: Definition, tmp_path: Path) -> None:
    found = get("letters", tmp_path, parts=(0, 2))
    assert found.expected == tuple(f"{p}/{i}/c/{p}{i}cdef.jpg" for p in (0, 2) for i in range(3))
    assert found.missing() == []
    whole = get("letters", tmp_path)
    assert (len(whole.expected), whole.missing()) == (9, [])
    (found.images / "1" / "2" / "c" / "12cdef.jpg").unlink()
    assert found_wrong("letters", tmp_path) == {"images": ("1/2/c/12cdef.jpg",)}


def test_folders_as_in_the_archive(tree: Definition, tmp_path: Path) -> None:
    found = get("tree", tmp_path, parts=(2,))
    assert found.expected == ("002/002abc.jpg", "003/003abc.jpg")
    assert set(images_of(found)) == set(found.expected)
    assert get("tree", tmp_path).expected[0] == "000/000abc.jpg"


def test_what_was_put_there_by_hand_is_not_asked_for(
    server: FileServer, toy: Definition, letters: Definition, tmp_path: Path
) -> None:
    images = tmp_path / "toy" / "jpg"
    images.mkdir(parents=True)
    for name, content in IMAGES.items():
        (images / name).write_bytes(content)
    assert get("toy", tmp_path).missing() == []
    assert server.requests == ["gnd_toy.pkl"]
    (images / "toy_3.jpg").unlink()
    assert get("toy", tmp_path).parts == (1, 2)
    folder = tmp_path / "letters" / "archives" / "index"
    folder.mkdir(parents=True)
    (folder / "images_001.tar").write_bytes(server.files["index/images_001.tar"])
    get("letters", tmp_path, parts=[1])
    assert "index/images_001.tar" not in server.requests


# ------------------------------------------------------------------------------------------------------ what fails


def test_another_ground_truth_than_the_official_one(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    server.files["gnd_toy.pkl"] = pickle.dumps({})
    with raises(DataError, "gnd_toy.pkl"):
        get("toy", tmp_path)
    path = tmp_path / "toy" / "gnd_toy.pkl"
    assert not path.exists()
    path.write_bytes(b"mine")
    with raises(DataError, str(path)):
        get("toy", tmp_path)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"0" * 32 + b"  images_001.tar\n", "images_001.tar"),  # of another file
        (b"none", "images_001.tar.md5"),
        (b"0" * 32 + b"\n" + b"1" * 32, "images_001.tar.md5"),
    ],
)
def test_a_wrong_md5(server: FileServer, letters: Definition, tmp_path: Path, content: bytes, fact: str) -> None:
    server.files["md5sum/md5.images_001.txt"] = content
    with raises(DataError, fact):
        get("letters", tmp_path, parts=[1])
    assert not (tmp_path / "letters" / "index").exists()


def test_a_broken_transfer_begins_anew(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    get("toy", tmp_path, parts=[1])
    server.break_after = [500]
    with raises(DataError, "toy_2.tgz", "by hand at", "archives"):
        get("toy", tmp_path)
    assert [path.name for path in (tmp_path / "toy" / "archives" / "jpg").iterdir()] == []
    assert get("toy", tmp_path).missing() == []
    assert server.requests.count("toy_1.tgz") == 1


def test_a_transfer_is_tried_again(
    server: FileServer, toy: Definition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(getting, "_RETRIES", 1)
    server.break_after = [100_000, 500]
    assert get("toy", tmp_path).missing() == []
    assert server.requests == ["gnd_toy.pkl", "toy_1.tgz", "toy_1.tgz", "toy_2.tgz"]


def test_no_network_and_no_such_file(
    server: FileServer, toy: Definition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del server.files["toy_2.tgz"]
    with raises(DataError, "toy_2.tgz", "404"):
        get("toy", tmp_path)
    assert Dataset.of(toy, tmp_path).parts == (1,)
    url = "http://127.0.0.1:9/gnd_toy.pkl"  # where nobody listens
    monkeypatch.setitem(KNOWN, "toy", toy.model_copy(update={"files": {"gnd_toy.pkl": url}}))
    with raises(DataError, url):
        get("toy", tmp_path / "other")


@pytest.mark.parametrize("part", [1, 2])
def test_an_archive_that_was_cut(server: FileServer, toy: Definition, tmp_path: Path, part: int) -> None:
    good = server.files[f"toy_{part}.tgz"]
    for bad in (good[: len(good) // 2], good[:-6], b"junk", b"", good[:-8] + b"\0" * 8):
        server.files[f"toy_{part}.tgz"] = bad
        with raises(DataError, f"toy_{part}.tgz"):
            get("toy", tmp_path)
        assert part not in Dataset.of(toy, tmp_path).parts
        assert not (tmp_path / "toy" / "archives" / "jpg" / f"toy_{part}.tgz").exists()
    server.files[f"toy_{part}.tgz"] = good
    assert images_of(get("toy", tmp_path)) == IMAGES


def test_archives_without_all_images_of_the_list(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    server.files["toy_2.tgz"] = tar_of({"toy_4.jpg": jpeg(4), "toy_99.jpg": jpeg(5)})
    with raises(DataError, "3 of 8", "toy_5.jpg"):
        get("toy", tmp_path)


def odd(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../../x.jpg"])
def test_paths_that_lead_out_of_the_folder(server: FileServer, toy: Definition, tmp_path: Path, name: str) -> None:
    server.files["toy_1.tgz"] = tar_of([(odd(name), b"evil")])
    with raises(DataError, "toy_1.tgz"):
        get("toy", tmp_path / "root")
    assert list(tmp_path.rglob("x.jpg")) == []


def test_absolute_paths_links_and_devices(server: FileServer, tree: Definition, tmp_path: Path) -> None:
    victim = tmp_path / "victim.jpg"
    victim.write_bytes(b"precious")
    members = [
        (odd(str(victim)), b"evil"),
        (odd("link.jpg", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (odd("hard.jpg", tarfile.LNKTYPE, "000/000abc.jpg"), b""),
        (odd("null.jpg", tarfile.CHRTYPE), b""),
    ]
    server.files["tree.1.tar.gz"] = tar_of(members)
    found = get("tree", tmp_path / "root", parts=[1])
    assert victim.read_bytes() == b"precious"
    assert images_of(found) == {str(victim).lstrip("/"): b"evil"}


def test_two_processes_at_once(toy: Definition, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    with locked(tmp_path / "toy" / ".lock", "busy"), raises(LockedError, str(tmp_path / "toy")):
        get("toy", tmp_path)
    assert get("toy", tmp_path).missing() == []


def test_a_root_that_cannot_be_written(toy: Definition, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises(DataError, f"{tmp_path}/file", "--root"):
        get("toy", tmp_path / "file")


@pytest.mark.parametrize("when", ["downloading", "unpacking"])
def test_a_full_disk(
    server: FileServer, toy: Definition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    get("toy", tmp_path, parts=[1])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if when == "downloading":
            patch.setattr(getting.pooch.HTTPDownloader, "__call__", full)
        else:
            patch.setattr(getting.tarfile.TarFile, "extract", full)
        with raises(DataError, "toy_2.tgz:", ": No space left"):
            get("toy", tmp_path)
    assert images_of(get("toy", tmp_path)) == IMAGES
    assert server.requests.count("toy_1.tgz") == 1


def test_killed_at_any_moment(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    """Whatever the moment, no image is there that is not whole, and the next call ends it."""
    code = (
        "import sys, time\n"
        "from delf_engine.datasets import KNOWN, Definition, get\n"
        "KNOWN['toy'] = Definition.model_validate_json(sys.argv[1])\n"
        "def slowly(*_): print('step', flush=True); time.sleep(0.05)\n"
        "get('toy', sys.argv[2], report=slowly)\n"
    )
    for steps in (1, 3, 5, 7, 9):
        root = tmp_path / str(steps)
        command = [sys.executable, "-c", code, toy.model_dump_json(), str(root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(steps):
                process.stdout.readline()
            time.sleep(0.02)
            os.kill(process.pid, signal.SIGKILL)
        found = Dataset.of(toy, root)
        assert all(IMAGES[name] == content for name, content in images_of(found).items())
        assert images_of(get("toy", root)) == IMAGES
        assert not (found.folder / ".unpacking").exists()


def test_check_tells_what_is_missing(toy: Definition, tmp_path: Path) -> None:
    with raises(DataError, "toy"):
        check("toy", tmp_path)
    found = get("toy", tmp_path)
    assert found_wrong("toy", tmp_path) == {}
    assert found_wrong(str(found.folder), tmp_path) == {}
    (found.images / "toy_1.jpg").unlink()
    (found.images / "toy_6.jpg").write_bytes(b"")
    assert found_wrong("toy", tmp_path) == {"images": ("toy_1.jpg", "toy_6.jpg")}
    (found.folder / "gnd_toy.pkl").write_bytes(b"none")
    assert set(found_wrong("toy", tmp_path)) == {"gnd_toy.pkl", "names"}
    (found.folder / "gnd_toy.pkl").unlink()
    assert set(found_wrong("toy", tmp_path)) == {"gnd_toy.pkl", "names"}
