from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delf_engine.downloads import Caller, Checksum, check_room, download, file_digest, file_sha256
from delf_engine.errors import CheckpointError, DataError
from file_server import FileServer, serving

DATA = np.random.default_rng(0).bytes(300_000)
SHA = hashlib.sha256(DATA).hexdigest()
MODELS = Caller(CheckpointError, "set DELF_ENGINE_HOME to another folder")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(FileServer({"m.bin": DATA, "empty.bin": b""})) as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "m.bin"


def fetch(server: FileServer, target: Path, sha256: str = SHA, name: str = "m.bin", **options: Any) -> Path:
    options = {"pause": 0.0, "timeout": 10.0, "caller": MODELS, **options}
    return download(server.url(name), target, Checksum("sha256", sha256), **options)


def left_behind(target: Path) -> list[str]:
    return sorted(p.name for p in target.parent.iterdir() if p.suffix != ".lock")


def test_a_whole_file_with_progress(server: FileServer, target: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert fetch(server, target, progress=lambda done, total: seen.append((done, total))) == target
    assert target.read_bytes() == DATA
    assert left_behind(target) == ["m.bin"]
    done = [d for d, _ in seen]
    assert done == sorted(set(done))
    assert seen[-1] == (len(DATA), len(DATA))
    fetch(server, target)
    assert len(server.requests) == 1  # what is there is not asked for again


def test_an_empty_file_and_one_of_unknown_length(server: FileServer, target: Path) -> None:
    empty = fetch(server, target.with_name("empty.bin"), hashlib.sha256(b"").hexdigest(), "empty.bin")
    assert empty.read_bytes() == b""
    server.lengths = False
    seen: list[tuple[int, int]] = []
    assert fetch(server, target, progress=lambda done, total: seen.append((done, total))).read_bytes() == DATA
    assert seen[-1] == (len(DATA), 0)


def test_a_redirect_is_followed(server: FileServer, target: Path) -> None:
    server.redirect["old"] = server.url("m.bin")
    assert fetch(server, target, name="old").read_bytes() == DATA


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_transfer_goes_on(server: FileServer, target: Path, ranges: bool) -> None:
    server.ranges = ranges
    server.break_after = [1000, 70_000, 100_000]
    assert fetch(server, target).read_bytes() == DATA
    asked = [header for _, header in server.requests]
    assert asked[:2] == [None, "bytes=1000-"]
    assert asked[2] == ("bytes=71000-" if ranges else "bytes=70000-")
    assert len(asked) == 4


@given(
    data=st.binary(max_size=200),
    breaks=st.lists(st.integers(0, 220), max_size=6),
    before=st.one_of(st.none(), st.binary(max_size=250), st.integers(0, 200)),
    ranges=st.booleans(),
    wrong=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_breaks_and_any_leftover_end_in_the_file(
    server: FileServer,
    tmp_path: Path,
    data: bytes,
    breaks: list[int],
    before: bytes | int | None,
    ranges: bool,
    wrong: bool,
) -> None:
    """The file of an interrupted call may be its beginning (int), or anything else (bytes)."""
    target = tmp_path / "any.bin"
    target.unlink(missing_ok=True)
    if before is not None:
        part = data[:before] if isinstance(before, int) else before
        target.with_name("any.bin.part").write_bytes(part)
    server.files["any.bin"] = data
    server.break_after = list(breaks)
    server.ranges, server.wrong_range = ranges, wrong
    sha = hashlib.sha256(data).hexdigest()
    assert fetch(server, target, sha, "any.bin", retries=20).read_bytes() == data
    assert not target.with_name("any.bin.part").exists()


def test_giving_up_keeps_what_came_and_the_next_call_goes_on(server: FileServer, target: Path) -> None:
    server.break_after = [5000] + [0] * 3
    with pytest.raises(CheckpointError, match=r"closed after 5000 of 300000 bytes, 3 times in a row; 5000 bytes"):
        fetch(server, target, retries=2)
    assert left_behind(target) == ["m.bin.part", "m.bin.part.json"]
    assert fetch(server, target).read_bytes() == DATA
    assert server.requests[-1] == ("m.bin", "bytes=5000-")


def test_a_server_that_always_breaks_at_the_same_place_is_given_up(server: FileServer, target: Path) -> None:
    server.ranges = False
    server.break_after = [5000] * 100
    with pytest.raises(CheckpointError, match="4 times in a row"):
        fetch(server, target, retries=3)
    assert len(server.requests) == 5


@pytest.mark.parametrize("leftover", [b"", DATA[:777], b"x" * 777, b"x" * 400_000])
def test_wrong_content_is_removed(server: FileServer, target: Path, leftover: bytes) -> None:
    target.parent.mkdir()
    target.with_name("m.bin.part").write_bytes(leftover)
    with pytest.raises(CheckpointError) as caught:
        fetch(server, target, "0" * 64)
    assert f"expected a file with SHA-256 {'0' * 64}, found {SHA}; it was removed" in str(caught.value)
    assert left_behind(target) == []


def test_a_complete_leftover_needs_no_network(target: Path) -> None:
    target.parent.mkdir()
    target.with_name("m.bin.part").write_bytes(DATA)
    assert (
        download("http://127.0.0.1:9/m.bin", target, Checksum("sha256", SHA), caller=MODELS).read_bytes() == DATA
    )


def test_a_missing_file_says_so_at_once(server: FileServer, target: Path) -> None:
    with pytest.raises(
        CheckpointError, match=rf"gone\.bin: the server answered 404 Not Found.*{SHA}\) at {target}"
    ):
        fetch(server, target, name="gone.bin")
    assert len(server.requests) == 1
    assert left_behind(target) == []


def test_a_busy_server_is_asked_again(server: FileServer, target: Path) -> None:
    server.statuses = [503, 429]
    assert fetch(server, target).read_bytes() == DATA
    server.statuses = [500] * 10
    with pytest.raises(CheckpointError, match="answered 500 Internal Server Error, 3 times in a row"):
        fetch(server, target.with_name("other.bin"), retries=2)


def test_a_stalled_connection_counts_as_broken(server: FileServer, target: Path) -> None:
    server.stall = threading.Event()
    with pytest.raises(CheckpointError, match=r"timed out, 1 times in a row; 150000 bytes are kept"):
        fetch(server, target, timeout=0.3, retries=0)
    server.stall.set()
    server.stall = None
    assert fetch(server, target).read_bytes() == DATA


def test_more_than_the_stated_size_is_refused(server: FileServer, target: Path) -> None:
    with pytest.raises(CheckpointError, match="sends 300000 bytes or more, at most 1000 are expected"):
        fetch(server, target, size=1000)
    server.lengths = False
    with pytest.raises(CheckpointError, match="at most 100000 are expected"):
        fetch(server, target, size=100_000)
    assert left_behind(target) == []
    assert fetch(server, target, size=len(DATA)).read_bytes() == DATA


def test_no_network(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(CheckpointError, match=rf"cannot be reached: .*refused.*put the file .* at {target}"):
        download(f"http://127.0.0.1:{port}/m.bin", target, Checksum("sha256", SHA), caller=MODELS)

    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(CheckpointError, match=r"cannot be reached: .*name resolution"):
        download("https://models.example/m.bin", target, Checksum("sha256", SHA), caller=MODELS)
    assert left_behind(target) == []


def test_a_folder_that_cannot_be_written(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be written: .*DELF_ENGINE_HOME"):
        fetch(server, tmp_path / "file" / "m.bin")
    assert server.requests == []


def test_two_processes_download_once(server: FileServer, target: Path) -> None:
    server.stall = threading.Event()
    code = (
        "import sys; from pathlib import Path; from delf_engine.errors import DataError as E; "
        "from delf_engine.downloads import Caller, Checksum, download as d; "
        "check = Checksum('sha256', sys.argv[3]); "
        "print(d(sys.argv[1], Path(sys.argv[2]), check, caller=Caller(E, '')).stat().st_size)"
    )
    command = [sys.executable, "-c", code, server.url("m.bin"), str(target), SHA]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert server.started.wait(60)
    server.stall.set()
    assert [process.communicate(timeout=60)[0].strip() for process in running] == ["300000", "300000"]
    assert server.requests == [("m.bin", None)]
    assert left_behind(target) == ["m.bin"]


def test_hash_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(DATA)
    assert file_sha256(path) == file_digest(path, "sha256") == SHA
    assert file_digest(path, "md5") == hashlib.md5(DATA).hexdigest()


# ------------------------------------------------------------------------------------- other and no checksums

DATASETS = Caller(DataError, "choose another --root")


def fetch_unchecked(server: FileServer, target: Path, **options: Any) -> Path:
    options = {"pause": 0.0, "timeout": 10.0, "caller": DATASETS, **options}
    return download(server.url("m.bin"), target, None, **options)


def test_md5(server: FileServer, target: Path) -> None:
    right, wrong = Checksum("md5", hashlib.md5(DATA).hexdigest()), Checksum("md5", "0" * 32)
    with pytest.raises(
        DataError, match=f"expected a file with MD5 {'0' * 32}, found {right.value}; it was removed"
    ):
        download(server.url("m.bin"), target, wrong, caller=DATASETS)
    assert left_behind(target) == []
    assert download(server.url("m.bin"), target, right, caller=DATASETS).read_bytes() == DATA


@pytest.mark.parametrize(
    "mark", [None, ("ETag", '"v1"'), ("ETag", 'W/"v1"'), ("Last-Modified", "Mon, 1 Jan 2024")]
)
def test_without_a_checksum_a_transfer_goes_on(
    server: FileServer, target: Path, mark: tuple[str, str] | None
) -> None:
    if mark is not None:
        server.marks["m.bin"] = mark
    server.break_after = [1000, 70_000]
    assert fetch_unchecked(server, target).read_bytes() == DATA
    assert [header for _, header in server.requests] == [None, "bytes=1000-", "bytes=71000-"]
    assert left_behind(target) == ["m.bin"]


@pytest.mark.parametrize("changed", [DATA[::-1], DATA[::-1] + b"more", DATA[:50]], ids=len)
@pytest.mark.parametrize("mark", ["ETag", "Last-Modified", None])
def test_a_file_that_changes_between_two_transfers_is_begun_anew(
    server: FileServer, target: Path, changed: bytes, mark: str | None
) -> None:
    """Where the server gives no mark, another length is all that can tell."""
    if mark is not None:
        server.marks["m.bin"] = (mark, '"v1"')
    server.break_after = [5000, 0]
    with pytest.raises(DataError, match="5000 bytes are kept"):
        fetch_unchecked(server, target, retries=0)
    server.files["m.bin"] = changed
    if mark is not None:
        server.marks["m.bin"] = (mark, '"v2"')
    found = fetch_unchecked(server, target).read_bytes()
    assert found == (changed if mark is not None or len(changed) != len(DATA) else DATA[:5000] + changed[5000:])


def test_without_a_checksum_only_a_known_beginning_is_used(server: FileServer, target: Path) -> None:
    target.parent.mkdir()
    part = target.with_name("m.bin.part")
    part.write_bytes(b"x" * 777)
    assert fetch_unchecked(server, target).read_bytes() == DATA
    target.unlink()
    server.break_after = [5000, 0]
    with pytest.raises(DataError, match="5000 bytes are kept"):
        fetch_unchecked(server, target, retries=0)
    note = part.with_name("m.bin.part.json")
    note.write_text(note.read_text()[:-5])  # torn by a crash
    assert fetch_unchecked(server, target).read_bytes() == DATA
    assert server.requests[-1] == ("m.bin", None)


def test_without_a_checksum_a_complete_leftover_needs_no_network(server: FileServer, target: Path) -> None:
    server.break_after = [len(DATA) - 1, 0]
    with pytest.raises(DataError, match="299999 bytes are kept"):
        fetch_unchecked(server, target, retries=0)
    part = target.with_name("m.bin.part")
    part.write_bytes(part.read_bytes() + DATA[-1:])
    asked = len(server.requests)
    assert fetch_unchecked(server, target).read_bytes() == DATA
    assert len(server.requests) == asked


def test_neither_checksum_nor_length(server: FileServer, target: Path) -> None:
    server.lengths = False
    with pytest.raises(DataError, match="no checksum for it and the server does not state its length"):
        fetch_unchecked(server, target)
    assert left_behind(target) == []


def test_a_slow_server_is_waited_for(server: FileServer, target: Path) -> None:
    server.slow = 0.02
    assert fetch_unchecked(server, target, timeout=0.3).read_bytes() == DATA


# --------------------------------------------------------------------------------------------------- full disks


def free_bytes(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = namedtuple("usage", "total used free")(10**12, 10**12 - free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def test_a_disk_without_room_is_noticed_before_it_is_filled(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes(monkeypatch, 1_299_999)
    with pytest.raises(DataError, match=r"needs 1.3 MB more, and 1.3 MB are free at .*cache; .*another --root"):
        fetch_unchecked(server, target, reserve=10**6)
    assert left_behind(target) == []
    free_bytes(monkeypatch, 1_300_000)
    assert fetch_unchecked(server, target, reserve=10**6).read_bytes() == DATA


def test_room_counts_what_is_there_already(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.break_after = [200_000, 0]
    with pytest.raises(DataError, match="200000 bytes are kept"):
        fetch_unchecked(server, target, retries=0)
    free_bytes(monkeypatch, 100_000)
    assert fetch_unchecked(server, target).read_bytes() == DATA


def test_check_room_of_a_folder_that_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_room(tmp_path / "a" / "b", 1, what="it", caller=DATASETS)
    free_bytes(monkeypatch, 17)
    check_room(tmp_path / "a" / "b", 17, what="it", caller=DATASETS)
    with pytest.raises(DataError, match=f"^it needs 18 bytes more, and 17 bytes are free at {tmp_path}; nothing"):
        check_room(tmp_path / "a" / "b", 18, what="it", caller=DATASETS)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_keeps_what_came(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    class Filling:
        """A file on a disk that takes 1000 bytes."""

        def __init__(self, *arguments: Any) -> None:
            self.file = opened(*arguments)

        def write(self, data: bytes) -> int:
            self.file.write(data[:1000])
            raise OSError(error, os.strerror(error))

        def __enter__(self) -> Filling:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

    opened = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "open", lambda *a, **k: Filling(*a) if a[1:] in (("wb",), ("ab",)) else opened(*a, **k)
        )
        with pytest.raises(DataError, match=r"disk is full; the 1000 bytes that came are kept.*another --root"):
            fetch_unchecked(server, target)
    assert fetch_unchecked(server, target).read_bytes() == DATA
    assert server.requests[-1] == ("m.bin", "bytes=1000-")


def test_a_killed_process_goes_on(server: FileServer, target: Path) -> None:
    server.stall = threading.Event()
    code = (
        "import sys; from pathlib import Path; from delf_engine.errors import DataError as E; "
        "from delf_engine.downloads import Caller, download as d; "
        "d(sys.argv[1], Path(sys.argv[2]), None, caller=Caller(E, ''))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, server.url("m.bin"), str(target)])
    part = target.with_name("m.bin.part")
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    server.stall.set()
    server.stall = None
    received = part.stat().st_size
    assert fetch_unchecked(server, target).read_bytes() == DATA
    assert server.requests[-1] == ("m.bin", f"bytes={received}-")
