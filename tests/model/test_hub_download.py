from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delf_engine.errors import CheckpointError
from delf_engine.model.download import download, file_sha256
from model.file_server import FileServer, serving

DATA = np.random.default_rng(0).bytes(300_000)
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(FileServer({"m.bin": DATA, "empty.bin": b""})) as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "m.bin"


def fetch(server: FileServer, target: Path, sha256: str = SHA, name: str = "m.bin", **options: Any) -> Path:
    return download(server.url(name), target, sha256, **{"pause": 0.0, "timeout": 10.0, **options})


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
    assert left_behind(target) == ["m.bin.part"]
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
    assert download("http://127.0.0.1:9/m.bin", target, SHA).read_bytes() == DATA


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
        download(f"http://127.0.0.1:{port}/m.bin", target, SHA)

    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(CheckpointError, match=r"cannot be reached: .*name resolution"):
        download("https://models.example/m.bin", target, SHA)
    assert left_behind(target) == []


def test_a_folder_that_cannot_be_written(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be written: .*DELF_ENGINE_HOME"):
        fetch(server, tmp_path / "file" / "m.bin")
    assert server.requests == []


def test_two_processes_download_once(server: FileServer, target: Path) -> None:
    server.stall = threading.Event()
    code = "import sys; from pathlib import Path; from delf_engine.model.download import download as d; "
    code += "print(d(sys.argv[1], Path(sys.argv[2]), sys.argv[3]).stat().st_size)"
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
    assert file_sha256(path) == SHA
