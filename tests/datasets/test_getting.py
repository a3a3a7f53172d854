from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from datasets.toys import AT_ONCE, IMAGES, TRUTH, jpeg, tar_of
from delf_engine.datasets import Archive, Dataset, Definition, RemoteFile, check, get, getting, plan
from delf_engine.errors import ConfigError, DataError, FormatError, LockedError
from file_server import FileServer


def fetch(known: Definition, root: Path, **options: Any) -> Dataset:
    return get(known, root, transfer=AT_ONCE, **options)


def files_below(folder: Path) -> list[str]:
    """All files but the lock of the set."""
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and p != folder / ".lock")
    return sorted(map(str, paths))


def asked(server: FileServer) -> list[str]:
    return [path for path, _ in server.requests]


COMPLETE = sorted(
    [
        *(f"jpg/{name}" for name in IMAGES),
        *(f".received/jpg/toy_{part}.tgz.sha256" for part in (1, 2)),
        "data.json",
        "gnd_toy.pkl",
    ]
)


def test_a_set_is_downloaded_unpacked_and_recorded(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int, int | None]] = []
    found = fetch(toy, tmp_path, report=lambda *event: seen.append(event))
    assert found.folder == tmp_path / "toy"
    assert files_below(found.folder) == COMPLETE
    assert {p.name: p.read_bytes() for p in found.images.iterdir()} == IMAGES
    assert found.missing() == []
    assert found.parts == (1, 2)
    record = json.loads((found.folder / "data.json").read_text())
    assert record["files"]["gnd_toy.pkl"] == {
        "url": server.url("gnd_toy.pkl"),
        "bytes": len(TRUTH),
        "sha256": hashlib.sha256(TRUTH).hexdigest(),
    }
    part = record["parts"]["jpg/toy_1.tgz"]
    assert part["sha256"] == hashlib.sha256(server.files["toy_1.tgz"]).hexdigest()
    assert (part["images"], part["left_out"], part["published"]) == (4, 2, "")
    stages = list(dict.fromkeys(what for what, *_ in seen))
    assert stages == [
        "downloading gnd_toy.pkl",
        *(f"{what} toy_{part}.tgz" for part in (1, 2) for what in ("downloading", "unpacking")),
    ]
    assert seen[-1][1:] == (len(server.files["toy_2.tgz"]),) * 2 + (4,)
    listed = subprocess.run(
        ["sha256sum", "-c", *(str(p) for p in sorted((found.folder / ".received" / "jpg").iterdir()))],
        cwd=found.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert listed.returncode == 0, listed.stdout
    assert listed.stdout.count(": OK") == 8

    asked_before = len(server.requests)
    assert plan(toy, tmp_path).parts == plan(toy, tmp_path).files == ()
    fetch(toy, tmp_path)
    assert len(server.requests) == asked_before


def test_some_parts_now_and_others_later(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    todo = plan(toy, tmp_path, parts=(2,))
    assert (todo.parts, todo.unpacked, todo.download) == ((2,), toy.archives[1].about, toy.archives[1].about)
    assert todo.room == 2 * toy.archives[1].about
    found = fetch(toy, tmp_path, parts=(2,))
    assert sorted(p.name for p in found.images.iterdir()) == sorted(IMAGES)[4:]
    assert found.missing() == [f"toy_{i}" for i in range(4)]
    assert "toy_1.tgz" not in asked(server)
    assert fetch(toy, tmp_path).missing() == []
    assert asked(server).count("toy_2.tgz") == 1


@pytest.mark.parametrize("parts", [(), (0,), (1, 3)])
def test_parts_that_there_are_not(toy: Definition, tmp_path: Path, parts: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="toy has the parts 1 to 2, not"):
        fetch(toy, tmp_path, parts=parts)


def test_archives_may_be_kept(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    assert plan(toy, tmp_path, keep_archives=True).room == 2 * sum(archive.about for archive in toy.archives)
    found = fetch(toy, tmp_path, keep_archives=True)
    kept = [f"archives/jpg/toy_{part}.tgz" for part in (1, 2)]
    assert files_below(found.folder) == sorted([*COMPLETE, *kept])
    shutil.rmtree(found.images)  # an accident: what was kept serves again
    before = len(server.requests)
    assert fetch(toy, tmp_path).missing() == []
    assert len(server.requests) == before


def test_a_set_that_lost_an_image_gets_its_archive_again(
    server: FileServer, toy: Definition, tmp_path: Path
) -> None:
    found = fetch(toy, tmp_path)
    (found.images / "toy_1.jpg").unlink()
    (found.images / "toy_5.jpg").write_bytes(b"")
    assert plan(toy, tmp_path).parts == (1, 2)
    assert fetch(toy, tmp_path).missing() == []
    (found.folder / ".received" / "jpg" / "toy_2.tgz.sha256").write_text("nonsense\n")
    assert plan(toy, tmp_path).parts == (2,)
    assert fetch(toy, tmp_path).missing() == []


def test_lists_letters_and_published_md5(server: FileServer, letters: Definition, tmp_path: Path) -> None:
    found = fetch(letters, tmp_path, parts=(0, 2))
    assert found.names == tuple(f"{part}{i}cdef" for part in (0, 2) for i in range(3))
    assert found.image("21cdef") == found.images / "2" / "1" / "c" / "21cdef.jpg"
    assert found.missing() == []
    assert not (found.folder / "archives").exists()
    record = json.loads((found.folder / "data.json").read_text())["parts"]["index/images_002.tar"]
    assert record["published"] == f"MD5 {hashlib.md5(server.files['index/images_002.tar']).hexdigest()}"
    whole = fetch(letters, tmp_path)
    assert len(whole.names) == 9
    assert whole.missing() == []


def test_folders_as_in_the_archive(tree: Definition, tmp_path: Path) -> None:
    found = fetch(tree, tmp_path, parts=(2,))
    assert found.names == ("002/002abc.jpg", "003/003abc.jpg")
    assert found.missing() == []
    assert fetch(tree, tmp_path).names[0] == "000/000abc.jpg"
    assert found.image("000/000abc.jpg").is_file()


def test_a_wrong_md5(server: FileServer, letters: Definition, tmp_path: Path) -> None:
    server.files["md5sum/md5.images_001.txt"] = b"0" * 32 + b"  images_001.tar\n"
    with pytest.raises(DataError, match=rf"expected a file with MD5 {'0' * 32}, found .*; it was removed"):
        fetch(letters, tmp_path, parts=(1,))
    by_hand = tmp_path / "letters" / "archives" / "index" / "images_001.tar"
    by_hand.write_bytes(server.files["index/images_001.tar"])
    with pytest.raises(DataError, match=rf"images_001\.tar: expected MD5 {'0' * 32}, found .*delete it"):
        fetch(letters, tmp_path, parts=(1,))
    assert by_hand.is_file()


@pytest.mark.parametrize("content", [b"", b"none", b"0" * 32 + b"\n" + b"1" * 32])
def test_a_checksum_file_without_one(
    server: FileServer, letters: Definition, tmp_path: Path, content: bytes
) -> None:
    server.files["md5sum/md5.images_000.txt"] = content
    with pytest.raises(DataError, match=r"md5\.images_000\.txt: one MD5 was expected in this file, found \d"):
        fetch(letters, tmp_path, parts=(0,))


# ------------------------------------------------------------------------------------------------------ what fails


def test_another_ground_truth_than_the_official_one(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    server.files["gnd_toy.pkl"] = pickle.dumps({})
    with pytest.raises(DataError, match="expected a file with SHA-256"):
        fetch(toy, tmp_path)
    (tmp_path / "toy" / "gnd_toy.pkl").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"gnd_toy\.pkl: has the SHA-256 .*, the official file .*move it away"):
        fetch(toy, tmp_path)
    assert (tmp_path / "toy" / "gnd_toy.pkl").read_bytes() == b"mine"


def test_a_list_that_changed_since_it_was_received(letters: Definition, tmp_path: Path) -> None:
    found = fetch(letters, tmp_path)
    (found.folder / "metadata" / "index.csv").write_text("id\na\n")
    with pytest.raises(DataError, match=r"index\.csv: has changed since it was received; move it away"):
        fetch(letters, tmp_path)


def test_a_broken_transfer_goes_on_in_the_next_call(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    fetch(toy, tmp_path, parts=(1,))
    server.break_after = [500, 0, 0, 0]
    with pytest.raises(
        DataError, match=r"500 bytes are kept, the same command goes on from there.*put the file at "
    ):
        fetch(toy, tmp_path)
    todo = plan(toy, tmp_path)
    assert (todo.parts, todo.download) == ((2,), toy.archives[1].about - 500)
    names = {c.what: c.names for c in check(toy, tmp_path).checks if not c.ok}
    assert names["downloads"] == ("toy_2.tgz",)
    assert fetch(toy, tmp_path).missing() == []
    assert server.requests[-1] == ("toy_2.tgz", "bytes=500-")


def test_no_network_and_archives_put_there_by_hand(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    files = tuple(RemoteFile(f"{nowhere}/{f.path}", f.path, f.sha256) for f in toy.files)
    archives = tuple(Archive(f"{nowhere}/{a.name}", a.about) for a in toy.archives)
    offline = replace(toy, files=files, archives=archives)
    for path, content in (
        ("gnd_toy.pkl", TRUTH),
        *((f"toy_{n}.tgz", server.files[f"toy_{n}.tgz"]) for n in (1, 2)),
    ):
        with pytest.raises(
            DataError, match=r"cannot be reached: .* put the file( \(SHA-256 \w+\))? at "
        ) as caught:
            fetch(offline, tmp_path)
        place = Path(str(caught.value).rpartition(" at ")[2])
        assert place.name == path
        place.write_bytes(content)
    assert fetch(offline, tmp_path).missing() == []


@pytest.mark.parametrize(
    "content", [b"<html>moved</html>", tar_of({"../toy_1.jpg": b"evil"})], ids=["page", "evil"]
)
def test_what_is_no_archive_is_removed(
    server: FileServer, toy: Definition, tmp_path: Path, content: bytes
) -> None:
    good, server.files["toy_2.tgz"] = server.files["toy_2.tgz"], content
    with pytest.raises(DataError, match=r"toy_2\.tgz: .*\. It was removed; the same command downloads it again"):
        fetch(toy, tmp_path)
    assert not (tmp_path / "toy" / "archives" / "jpg" / "toy_2.tgz").exists()
    server.files["toy_2.tgz"] = good
    assert fetch(toy, tmp_path).missing() == []
    assert asked(server).count("toy_1.tgz") == 1


def test_archives_without_all_images_of_the_list(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    server.files["toy_2.tgz"] = tar_of({"toy_4.jpg": jpeg(4), "toy_99.jpg": jpeg(5)})
    with pytest.raises(
        DataError, match=r"all archives are unpacked, but 3 of 8 images are not there: toy_5, toy_6, "
    ):
        fetch(toy, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"data\.json: cannot be read: .*delete it"),
        ("[]", "is no record of a data set"),
        ("{}", "is no record of a data set"),
        ('{"format": 1, "files": {"a": {"url": 1}}, "parts": {}}', "is no record of a data set"),
        ('{"format": 2}', "has format 2, this version of delf-engine knows 1"),
    ],
)
def test_a_damaged_record(toy: Definition, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "data.json").write_text(content)
    with pytest.raises(FormatError, match=message):
        fetch(toy, tmp_path)
    assert not check(toy, tmp_path).ok


def test_two_processes_at_once(toy: Definition, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    with FileLock(tmp_path / "toy" / ".lock"), pytest.raises(LockedError, match="another process is getting this"):
        fetch(toy, tmp_path)
    assert fetch(toy, tmp_path).missing() == []


def test_images_that_were_put_there_by_hand_are_not_asked_for(
    server: FileServer, toy: Definition, tmp_path: Path
) -> None:
    """Unpacked by oneself, as many have these sets: the ground truth is all that is missing."""
    images = tmp_path / "toy" / "jpg"
    images.mkdir(parents=True)
    for name, content in IMAGES.items():
        (images / name).write_bytes(content)
    assert fetch(toy, tmp_path).missing() == []
    assert asked(server) == ["gnd_toy.pkl"]
    todo = plan(toy, tmp_path)
    assert (todo.files, todo.parts, todo.room) == ((), (), 0)
    assert check(toy, tmp_path, deep=True).ok
    (images / "toy_3.jpg").unlink()
    assert plan(toy, tmp_path).parts == (1, 2)
    assert fetch(toy, tmp_path).parts == (1, 2)


def test_killed_between_the_last_image_and_the_record(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    found = fetch(toy, tmp_path, keep_archives=True)
    (found.folder / "data.json").unlink()
    assert plan(toy, tmp_path).parts == (1, 2)
    before = len(server.requests)
    assert fetch(toy, tmp_path).parts == (1, 2)
    assert len(server.requests) == before
    assert files_below(found.folder) == COMPLETE


def test_a_root_that_cannot_be_written(toy: Definition, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written: .*--root or DELF_ENGINE_DATA"):
        fetch(toy, tmp_path / "file")


# ----------------------------------------------------------------------------------------- full disks, sudden ends


def test_a_disk_without_room_is_noticed_before_the_first_byte(
    server: FileServer, toy: Definition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    needed = plan(toy, tmp_path).room
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, needed - 1))
    with pytest.raises(
        DataError, match=r"toy needs .* more, and .* are free at .*; nothing that is there was lost"
    ):
        fetch(toy, tmp_path)
    assert server.requests == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, needed))
    assert fetch(toy, tmp_path).missing() == []


def test_a_disk_that_fills_up_while_unpacking(
    server: FileServer, toy: Definition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith("toy_6.jpg"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replaced(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(DataError, match=r"toy_2\.tgz: the disk is full; nothing that was finished is lost"):
            fetch(toy, tmp_path)
    assert (tmp_path / "toy" / "archives" / "jpg" / "toy_2.tgz").is_file()
    assert {c.what: c.names for c in check(toy, tmp_path).checks}["downloads"] == ("toy_2.tgz",)
    assert [p.name for p in (tmp_path / "toy" / "jpg").glob(".*")] == []
    before = len(server.requests)
    assert fetch(toy, tmp_path).missing() == []
    assert len(server.requests) == before


# Whatever a step is called, the process ends in the middle of it as by kill -9.
KILLED = """
import os, pickle, sys
from pathlib import Path
from delf_engine.datasets import get, getting, Transfer
known, root, moment = pickle.loads(bytes.fromhex(sys.argv[1])), sys.argv[2], int(sys.argv[3])
count = 0
replaced = os.replace
def counted(source, target):
    global count
    count += 1
    if count == moment:
        if moment % 2:
            replaced(source, target)
        os.kill(os.getpid(), 9)
    replaced(source, target)
os.replace = counted
get(known, root, transfer=Transfer(10.0, 0, 0.0))
print("done")
"""


def test_killed_at_any_moment_it_goes_on(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    """Every file gets its name by `os.replace`: end there, before and after, again and again in one folder."""
    arguments = [sys.executable, "-c", KILLED, pickle.dumps(toy).hex(), str(tmp_path)]
    for moment in (1, 2, 3, 4, 7, 8, 9, 2, 5, 3):
        ended = subprocess.run([*arguments, str(moment)], capture_output=True, text=True, check=False)
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    found = fetch(toy, tmp_path)
    assert [name for name in files_below(found.folder) if not name.endswith(".tmp")] == COMPLETE
    assert {p.name: p.read_bytes() for p in found.images.iterdir() if not p.name.startswith(".")} == IMAGES
    assert check(toy, tmp_path, deep=True).ok


def test_killed_while_a_transfer_stands_still(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    fetch(toy, tmp_path, parts=(1,))
    noise = np.random.default_rng(0).bytes(10**6)
    server.files["toy_2.tgz"] = tar_of({**{n: IMAGES[n] for n in sorted(IMAGES)[4:]}, "README": noise})
    server.stall = threading.Event()
    code = KILLED.replace("os.replace = counted", "")
    arguments = [sys.executable, "-c", code, pickle.dumps(toy).hex(), str(tmp_path), "0"]
    process = subprocess.Popen(arguments)
    part = tmp_path / "toy" / "archives" / "jpg" / "toy_2.tgz.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(LockedError):
        fetch(toy, tmp_path)
    process.kill()
    process.wait()
    server.stall.set()
    server.stall = None
    received = part.stat().st_size
    assert fetch(toy, tmp_path).missing() == []
    assert server.requests[-1] == ("toy_2.tgz", f"bytes={received}-")


def test_the_order_of_requests_is_always_the_same(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    fetch(toy, tmp_path / "a", parts=(2, 1, 2))
    first, server.requests = server.requests, []
    fetch(toy, tmp_path / "b")
    assert server.requests == first
    assert (tmp_path / "a" / "toy" / "data.json").read_bytes() == (
        tmp_path / "b" / "toy" / "data.json"
    ).read_bytes()
    assert getting.archive_path(tmp_path, toy, toy.archives[0]) == tmp_path / "archives" / "jpg" / "toy_1.tgz"
