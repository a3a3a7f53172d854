from __future__ import annotations

import gzip
import hashlib
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.toys import tar_of
from delf_engine.datasets import unpack as module
from delf_engine.datasets.unpack import DamagedArchiveError, place, unpack


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_and_nothing_else(tmp_path: Path, mode: str, form: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarfile, "DEFAULT_FORMAT", form)
    folder = tarfile.TarInfo("a")
    folder.type = tarfile.DIRTYPE
    long = "x" * 90
    members = [
        (folder, b""),
        ("a/1.jpg", b"one"),
        ("./a/b/2.JPEG", b"two"),
        (f"a/{long}.jpg", b""),
        ("a/notes.txt", b"no"),
        ("a/._1.jpg", b"of a Mac"),
        ("a/bad.jpg", b"<html>"),
    ]
    archive = written(tmp_path / "x.tar", tar_of(members, mode=mode))
    seen: list[tuple[int, int, int]] = []
    found = unpack(
        archive, tmp_path / "jpg", "flat", leave_out=frozenset({"bad.jpg"}), progress=lambda *a: seen.append(a)
    )
    images = {"1.jpg": b"one", "2.JPEG": b"two", f"{long}.jpg": b""}
    assert files_below(tmp_path / "jpg") == images
    assert found.hashes == {name: hashlib.sha256(content).hexdigest() for name, content in images.items()}
    assert found.left_out == 2
    size = archive.stat().st_size
    assert seen[-1] == (size, size, 3)
    assert unpack(archive, tmp_path / "jpg", "flat", leave_out=frozenset({"bad.jpg"})) == found  # again, over it


def test_an_archive_of_nothing(tmp_path: Path) -> None:
    found = unpack(written(tmp_path / "x.tar", tar_of({})), tmp_path / "jpg", "flat")
    assert (found.hashes, found.left_out) == ({}, 0)


@pytest.mark.parametrize(
    ("inside", "layout", "expected"),
    [
        ("a/b/c.jpg", "flat", "c.jpg"),
        ("a/b/c.jpg", "tree", "a/b/c.jpg"),
        ("jpg/b/c.jpg", "tree", "b/c.jpg"),
        ("jpg", "tree", "jpg"),
        ("0123456789abcdef.jpg", "letters", "0/1/2/0123456789abcdef.jpg"),
        ("index/0/1/2/0123456789abcdef.jpg", "letters", "0/1/2/0123456789abcdef.jpg"),
    ],
)
def test_places(inside: str, layout: Any, expected: str) -> None:
    assert place(inside, layout) == expected


def odd(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


EVIL = {
    "../evil.jpg": odd("../evil.jpg"),
    "/evil.jpg": odd("/tmp/evil.jpg"),
    "inner dots": odd("a/../../evil.jpg"),
    "symbolic link": odd("evil.jpg", tarfile.SYMTYPE, "/etc/passwd"),
    "link to a folder": odd("jpg", tarfile.SYMTYPE, "/tmp"),
    "hard link": odd("evil.jpg", tarfile.LNKTYPE, "good.jpg"),
    "device": odd("evil.jpg", tarfile.CHRTYPE),
    "pipe": odd("evil.jpg", tarfile.FIFOTYPE),
    "line break": odd("evil\n.jpg"),
    "backslash": odd("..\\evil.jpg"),
}


@pytest.mark.parametrize("layout", ["flat", "tree", "letters"])
@pytest.mark.parametrize("kind", EVIL)
def test_evil_archives_are_refused(tmp_path: Path, kind: str, layout: Any) -> None:
    archive = written(tmp_path / "x.tgz", tar_of([("good.jpg", b"good"), (EVIL[kind], b"")]))
    with pytest.raises(DamagedArchiveError, match=r"x\.tgz: refused: .*(leads out|a link or a device|no name)"):
        unpack(archive, tmp_path / "in" / "jpg", layout)
    found = [path.name for path in tmp_path.rglob("*") if not path.is_dir()]
    assert sorted(found) == ["good.jpg", "x.tgz"]


def test_two_images_of_one_name(tmp_path: Path) -> None:
    archive = written(tmp_path / "x.tgz", tar_of({"a/1.jpg": b"one", "b/1.jpg": b"two"}))
    with pytest.raises(DamagedArchiveError, match=r"two images that would both be 1\.jpg"):
        unpack(archive, tmp_path / "jpg", "flat")
    assert len(unpack(archive, tmp_path / "jpg", "tree").hashes) == 2


def test_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLACK", 0)
    archive = written(tmp_path / "x.tgz", tar_of({"1.jpg": bytes(10**6)}))
    with pytest.raises(DamagedArchiveError, match="more than 10 times its own size"):
        unpack(archive, tmp_path / "jpg", "flat")
    assert files_below(tmp_path / "jpg") == {}


GOOD = tar_of({f"{i}.jpg": np.random.default_rng(i).bytes(700) for i in range(5)})


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>404</html>", b"\x1f\x8b", GOOD[:-1], GOOD[:-8] + b"12345678", GOOD[: len(GOOD) // 2]],
    ids=["empty", "a page", "two bytes", "cut", "wrong check sum", "half"],
)
def test_damaged_archives(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DamagedArchiveError, match=r"x\.tgz: damaged, or no tar file: ."):
        unpack(written(tmp_path / "x.tgz", content), tmp_path / "jpg", "flat")
    assert not list((tmp_path).rglob(".*.part"))


@given(place=st.integers(0, len(GOOD) - 1), value=st.integers(1, 255))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_byte_is_noticed(tmp_path: Path, place: int, value: int) -> None:
    """But for the few of gzip's head that mean nothing: flags of text, time, system."""
    damaged = bytearray(GOOD)
    damaged[place] ^= value
    archive = written(tmp_path / "x.tgz", bytes(damaged))
    try:
        found = unpack(archive, tmp_path / "jpg", "flat")
    except DamagedArchiveError:
        return
    assert gzip.decompress(bytes(damaged)) == gzip.decompress(GOOD)
    assert len(found.hashes) == 5


def test_an_image_that_cannot_be_written_leaves_no_half(tmp_path: Path) -> None:
    archive = written(tmp_path / "x.tgz", tar_of({"1.jpg": b"one"}))
    (tmp_path / "jpg" / "1.jpg").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        unpack(archive, tmp_path / "jpg", "flat")
    assert not list((tmp_path / "jpg").glob(".*"))
