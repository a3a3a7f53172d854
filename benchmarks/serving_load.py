"""The mixed load of `benchmarks.serving`: several clients of a server, decoders killed, then the server itself.

Two thirds of the time one server runs and its decoders are killed one by one. Its memory must not grow between a
warm point, after a quarter of that, and the end. Then the server is killed outright and started again, over and
over. What it has said to be added must be there each time, what it has said to be removed must not; at the end
the engine is checked, and no file of an upload may be left that is no image.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import statistics
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks.common import memory, print_table
from benchmarks.serving import Server
from delf_engine import Engine

_KILL_SECONDS = 10.0  # between decoders
_LEAST_UP_SECONDS, _MOST_UP_SECONDS = 5.0, 40.0  # of a server that is going to be killed
_LOST_SECONDS = 35.0  # until the jobs of a killed server are known to be lost
_MOST_ADDED = 30
_GROWTH = 1.10
_REFUSALS = {404, 409, 429, 503}  # an image was removed by another client; busy
_HOSTILE = {408, 413, 422, 429, 431, 503}


class Load:
    """Clients of a server and what it has promised them."""

    def __init__(self, server: Server, photographs: list[str]) -> None:
        self._server = server
        self._files = [Path(path).read_bytes() for path in photographs]
        self._ids = [each["ref"] for each in server.got("GET", "/v1/images")["images"]]
        self._done, self._lock = threading.Event(), threading.Lock()
        self.answers: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()
        self.there: set[str] = set()
        self.gone: set[str] = set()
        self.lost: set[str] = set()
        self.back: set[str] = set()
        steps = (self._search, self._search, self._look_up, self._verify, self._add, self._remove, self._harm)
        self._threads = [threading.Thread(target=self._repeat, args=each) for each in enumerate(steps)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the clients."""
        self._done.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """Compare what is there with what was promised."""
        with self._lock:
            there, gone = set(self.there), set(self.gone)
        listed = {each["ref"] for each in self._server.got("GET", "/v1/images?limit=1000")["images"]}
        with self._lock:
            self.lost |= (there & self.there) - listed  # but for what is being removed just now
            self.back |= gone & listed

    def _repeat(self, seed: int, step: Callable[[random.Random], None]) -> None:
        rng = random.Random(seed)
        while not self._done.is_set():
            try:
                step(rng)
            except (OSError, HTTPException):  # it was killed
                self.answers["none"] += 1
                time.sleep(0.5)

    def _asked(self, method: str, path: str, form: Any = (), good: set[int] = _REFUSALS) -> Any:
        answer = self._server.ask(method, path, form)
        with self._lock:
            self.answers[f"{method} {path.partition('?')[0][:10]} {answer.status}"] += 1
            if answer.status >= 300 and answer.status not in good:
                self.unexpected[f"{method} {path[:50]}: {answer}"] += 1
        return answer.body if answer.status < 300 else None

    def _search(self, rng: random.Random) -> None:
        self._asked("POST", "/v1/search", [("file", rng.choice(self._files))])

    def _look_up(self, rng: random.Random) -> None:
        image_id = rng.choice(self._ids)
        self._asked("POST", "/v1/search", [("id", image_id), ("confirm", "0")])
        self._asked("GET", f"/v1/photograph?side=256&id={quote(image_id)}")

    def _verify(self, rng: random.Random) -> None:
        self._asked("POST", "/v1/verify", [("a", rng.choice(self._ids)), ("file_b", rng.choice(self._files))])

    def _add(self, rng: random.Random) -> None:
        if len(self.there) > _MOST_ADDED:
            time.sleep(1)
            return
        files = [("files", rng.choice(self._files)), ("files", b"<html>"), ("files", rng.choice(self._files))]
        job = self._asked("POST", "/v1/images", files)
        while job is not None and job["state"] in ("queued", "running"):
            time.sleep(0.2)
            job = self._asked("GET", f"/v1/jobs/{job['id']}")
        with self._lock:
            self.there |= {each["id"] for each in (job or {}).get("added", ())}

    def _remove(self, rng: random.Random) -> None:
        time.sleep(1)
        with self._lock:
            if not self.there:
                return
            image_id = rng.choice(sorted(self.there))
            self.there.discard(image_id)  # until it is answered, it may be there or not
        if self._asked("DELETE", f"/v1/images?id={quote(image_id)}") is not None:
            with self._lock:
                self.gone.add(image_id)

    def _harm(self, rng: random.Random) -> None:
        bad = rng.choice(
            [_bomb(60_000), _bomb(7_000), self._files[0][:5000], b"<svg/>", b"%!PS\n", bytes(1 << 20)]
        )
        self._asked("POST", "/v1/search", [("file", bad)], _HOSTILE)
        if rng.random() < 0.1:
            self._asked("POST", "/v1/images", [("files", b"x")] * 10_000, _HOSTILE)
            self._asked("GET", f"/v1/{'x' * 20_000}", (), _HOSTILE | {404})
        with socket.create_connection(("127.0.0.1", self._server.port)) as slow:
            slow.sendall(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
            time.sleep(1)


def _bomb(side: int) -> bytes:
    """Return a PNG of that many black pixels a side, of which each row is there if there are few enough."""
    rows = side if side < 10_000 else 1
    body = zlib.compress(bytes(rows * (side // 8 + 1)), 9)
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def mixed_load(server: Server, directory: Path, photographs: list[str], minutes: float) -> dict[str, Any]:
    """Put a server under load, kill its decoders and itself; print and return what came of it."""
    load, seconds = Load(server, photographs), 60 * minutes
    try:
        sizes, decoders = _memory_of(server, 2 * seconds / 3)
        load.check()
        killed = _killing(server, load, seconds / 3)
    finally:
        load.close()
    time.sleep(_LOST_SECONDS)
    server.stop()
    server.start()  # which deletes what jobs have left
    load.check()
    server.stop()
    with Engine.open(directory) as engine:
        whole, ids = engine.check().whole, engine.ids()
    kept = {path.name for path in (directory / "serve" / "photographs").iterdir()}
    warm, end = sizes
    result = {
        "minutes": minutes,
        "answers": dict(sorted(load.answers.items())),
        "unexpected": dict(load.unexpected.most_common(20)),
        "decoders_killed": decoders,
        "servers_killed": killed,
        "added": len(load.there) + len(load.gone),
        "lost": sorted(load.lost),
        "back": sorted(load.back),
        "whole": whole,
        "orphans": len(kept - {Path(each).name for each in ids}),
        "rss_mb": [warm / 2**20, end / 2**20],
        "growth": end / warm,
    }
    row = [f"{minutes:g}", str(sum(load.answers.values())), str(len(load.unexpected)), str(decoders), str(killed)]
    row += [f"{result['added']}, {len(load.gone)}", f"{len(load.lost)}, {len(load.back)}", str(result["orphans"])]
    row += ["yes" if whole else "no", f"{warm / 2**20:.0f} to {end / 2**20:.0f} ({end / warm - 1:+.1%})"]
    columns = ["minutes", "requests", "unexpected answers", "decoders killed", "servers killed"]
    columns += ["added, removed", "lost, back", "files left over", "whole", "RSS, MB"]
    print_table("mixed load with kills", columns, [row])
    if load.lost or load.back or load.unexpected or not whole or result["orphans"] or end > _GROWTH * warm:
        print(f"missed: see above; RSS may grow by {_GROWTH - 1:.0%}")
    return result


def _memory_of(server: Server, seconds: float) -> tuple[tuple[float, float], int]:
    """Kill decoders; return the server's memory at a warm point and at the end, medians, and how many died."""
    rng, killed = random.Random(0), 0
    samples: list[int] = []
    begin = time.monotonic()
    next_kill = begin + _KILL_SECONDS
    while (now := time.monotonic()) < begin + seconds:
        samples.append(memory("VmRSS", server.process.pid) or 0)
        if now > next_kill and (children := _decoders(server.process.pid)):
            with suppress(ProcessLookupError):
                os.kill(rng.choice(children), signal.SIGKILL)
            killed, next_kill = killed + 1, now + _KILL_SECONDS
        time.sleep(0.5)
    tenth = max(1, len(samples) // 10)
    quarter = len(samples) // 4
    return (statistics.median(samples[quarter : quarter + tenth]), statistics.median(samples[-tenth:])), killed


def _decoders(pid: int) -> list[int]:
    """Return processes that were started to decode."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


def _killing(server: Server, load: Load, seconds: float) -> int:
    """Kill the server and start it again, over and over; return how often."""
    rng, count = random.Random(1), 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(rng.uniform(_LEAST_UP_SECONDS, min(_MOST_UP_SECONDS, _LEAST_UP_SECONDS + seconds / 4)))
        server.process.kill()
        server.process.wait()
        server.start()
        load.check()
        count += 1
    return count
