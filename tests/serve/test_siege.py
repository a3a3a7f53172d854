"""Two server processes over one directory; what besieges one leaves memory, disk and others alone."""

from __future__ import annotations

import shutil
import socket
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import delf_engine as de
from helpers import image_bytes, random_photo
from serving import ended, png, ready, started

PHOTOS = [image_bytes(random_photo(np.random.default_rng(70 + i), 150, 110)) for i in range(3)]
MIB = 1 << 20
HOSTILE: dict[str, Any] = {
    "pixels that are there": {"file": png(5000, 5000, bytes(5000 * 5001))},  # 24 KB
    "pixels that are not": {"file": png(7000, 7000, bytes(1000))},
    "text": {"file": png(9, 9, bytes(90), (b"zTXt", b"k\0\0" + zlib.compress(bytes(200 * MIB))))},
    "a profile": {"file": png(9, 9, bytes(90), (b"iCCP", b"k\0\0" + zlib.compress(bytes(200 * MIB))))},
    "rubbish": {"file": np.random.default_rng(0).bytes(8 * MIB - 1000)},
    "too much": [("file", bytes(8 * MIB)), ("file", bytes(8 * MIB)), ("file", bytes(8 * MIB))],
    "many": [("file", b"x")] * 10_000,
}
Two = tuple[list[tuple[Any, httpx.Client]], Path]


@pytest.fixture(scope="module")
def two(built: Path, photos: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """Processes with clients of theirs, and the engine's directory."""
    directory = tmp_path_factory.mktemp("two") / "e"
    shutil.copytree(built, directory)
    with de.Engine.open(directory, root=Path(photos[0]).parent):
        pass
    with ExitStack() as stack:
        options = ("--max-bytes", 8 * MIB, "--threads", 2, "--seconds", 60)
        both = [stack.enter_context(started(directory, *options)) for _ in range(2)]
        for each in both:
            ready(*each)
        clients = [stack.enter_context(httpx.Client(base_url=at, timeout=90)) for _, at in both]
        yield [(process, client) for (process, _), client in zip(both, clients, strict=True)], directory


def test_two_processes_serve_one_directory(two: Two) -> None:
    ((_, first), (_, second)), directory = two
    before = first.get("/v1/info").json()["images"]
    jobs = [each.post("/v1/images", files={"files": PHOTOS[i]}).json() for i, each in enumerate((first, second))]
    added = [ended(second, job)["added"][0]["id"] for job in jobs]  # either knows the jobs of both
    for i, served in enumerate((second, first)):
        assert served.get("/v1/info").json()["images"] == before + 2
        best = served.post("/v1/search", files={"file": PHOTOS[i]}).json()["hits"][0]
        assert (best["photo"]["ref"], best["judgement"]["verdict"]) == (added[i], "same")
        assert served.get("/v1/photograph", params={"id": added[i]}).status_code == 200
    asked = first.post("/v1/search", files={"file": PHOTOS[2]}).json()["query"]["ref"]
    assert second.post("/v1/verify", data={"a": asked, "b": added[0]}).status_code == 200
    said = {"a": "0.png", "b": "1.png", "verdict": "same"}
    assert second.post("/v1/verdicts", json=said).status_code == 201
    assert said in first.get("/v1/verdicts").json()
    for image_id, served in zip(added, (first, second), strict=True):
        assert served.delete("/v1/images", params={"id": image_id}).json() == {"removed": 1}
    assert [each.get("/v1/info").json()["images"] for each in (first, second)] == [before, before]
    assert list((directory / "serve" / "photographs").iterdir()) == []


def test_a_siege_leaves_memory_disk_and_others_alone(two: Two) -> None:
    ((process, served), (_, other)), directory = two
    at = served.base_url

    def harm(files: Any) -> int:
        return httpx.post(f"{at}/v1/search", files=files, data={"confirm": "0"}, timeout=90).status_code

    def used() -> int:
        fields = dict(line.split(":") for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        return int(fields["RssAnon"].split()[0]) << 10

    assert {harm(files) for files in HOSTILE.values()} <= {200, 413, 422}  # black pixels are a photograph
    kept = {path for path in directory.rglob("*") if path.parent.name != "uploads"}
    before, done, waited = used(), threading.Event(), []
    with ExitStack() as stack, ThreadPoolExecutor(5) as pool:
        for i in range(60):
            slow = stack.enter_context(socket.create_connection((at.host, at.port)))
            slow.sendall(b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n"[: 20 + i])

        def others() -> None:
            while not done.wait(0.05):
                for each in (served, other):
                    found = each.post("/v1/search", data={"id": "0.png", "confirm": 0})
                    waited.append((found.status_code, found.elapsed.total_seconds()))

        asking = pool.submit(others)
        answers = list(pool.map(harm, [files for files in HOSTILE.values() for _ in range(2)]))
        done.set()
        asking.result()
    assert set(answers) <= {200, 413, 422, 429}
    assert {status for status, _ in waited} == {200}
    assert max(seconds for _, seconds in waited) < 30
    assert used() < before + 150 * MIB
    assert {path for path in directory.rglob("*") if path.parent.name != "uploads"} == kept
    assert sum(path.stat().st_size for path in (directory / "serve" / "uploads").iterdir()) < MIB
    assert served.get("/readyz").status_code == 200
