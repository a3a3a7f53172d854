"""What `delf-engine serve` costs beside direct calls, and whether a long mixed load with kills loses anything.

    python -m benchmarks.serving [--data DATA] [--images 200] [--searches 64]
    python -m benchmarks.serving --minutes 30

The server is a process of its own. Direct calls are `Engine.search` with the same options, in this process, on a
copy of the engine, by as many threads as the server searches with, or as there are clients. Both are asked in
turn, query by query where there is one client, else in blocks, so that what else the machine does falls on both.
A query is an image's id, or a photograph that the engine has not seen. "overhead" is the median difference of the
same query's two times; "around it" the mean time of a served search outside the search itself, decoding included,
which other work disturbs less. Rows "adding" are measured while one more client, and a thread, add a photograph
and remove it again.

``--minutes`` goes on with `benchmarks.serving_load`: searches, verifying, adding, removing, hostile uploads.
Photographs are those of ``paris/`` of ``--data``, or drawn by the demo.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import secrets
import shutil
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from benchmarks.common import data_folder, options_parser, own_process, print_table, timed, write_json
from delf_engine import Engine
from delf_engine.demo.scenes import render_collection
from delf_engine.images import find_images
from delf_engine.support.threads import usable_cores

_OPTIONS: dict[str, Any] = {"top_k": 20, "confirm": 10}  # the server's own, said to both
_HELD_BACK = 10  # of so many photographs one is a query
_ROUNDS = 3  # of blocks in turn
_MOST_MS, _LEAST_SHARE = 15.0, 0.85

Ask = Callable[[str], list[str]]


class Answer(NamedTuple):
    """Status and decoded JSON of an answer."""

    status: int
    body: Any


class Server:
    """A server process over an engine; it can be killed and started again at the same address.

    Parameters
    ----------
    directory : path
        Of the engine.
    log : path
        Where what it says goes, and what is said after a restart, too.
    """

    def __init__(self, directory: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._directory, self._log = directory, log
        self.start()

    def start(self) -> None:
        """Start it and wait until it is ready."""
        options = ("--port", self.port, "--seconds", 300, "--queue", 64)
        with self._log.open("a") as log:
            self.process = own_process("delf_engine", "serve", self._directory, *options, stderr=log.fileno())
        until = time.monotonic() + 300
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the server does not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def ask(self, method: str, path: str, form: Sequence[tuple[str, str | bytes]] = ()) -> Answer:
        """Send a form, if any, on a new connection; bytes are files."""
        headers, body = {}, b""
        if form:
            mark = secrets.token_hex(16)
            headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
            body = b"".join(_part(mark, *each) for each in form) + f"--{mark}--\r\n".encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=330)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
            return Answer(answer.status, json.loads(data) if is_json else data)
        finally:
            connection.close()

    def got(self, method: str, path: str, form: Sequence[tuple[str, str | bytes]] = ()) -> Any:
        """Return the JSON of an answer that must be a good one."""
        answer = self.ask(method, path, form)
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer}")
        return answer.body

    def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        """Wait for a job."""
        while job["state"] in ("queued", "running"):
            time.sleep(0.05)
            job = self.got("GET", f"/v1/jobs/{job['id']}")
        return job

    def stop(self) -> None:
        """Let it end by itself."""
        self.process.terminate()
        self.process.wait()

    def _is_ready(self) -> bool:
        try:
            return self.ask("GET", "/readyz").status == 200
        except OSError:
            return False


def _part(mark: str, name: str, value: str | bytes) -> bytes:
    file = '; filename="photograph"' if isinstance(value, bytes) else ""
    head = f'--{mark}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
    return head + (value if isinstance(value, bytes) else value.encode()) + b"\r\n"


class Kind(NamedTuple):
    """A kind of query: those of it, and how each side is asked, for the ids it finds."""

    name: str
    queries: list[str]
    direct: Ask
    served: Ask


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write JSON."""
    args = _arguments(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photographs = _photographs(args.data, args.images, folder)
        queries = photographs[::_HELD_BACK]
        with Engine.create(folder / "served", model=args.model, root=Path(photographs[0]).parent) as engine:
            engine.add([path for path in photographs if path not in set(queries)])
        shutil.copytree(folder / "served", folder / "direct")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        server = Server(folder / "served", args.out.with_suffix(".log"))
        try:
            result: dict[str, Any] = {"images": len(photographs) - len(queries), "threads": usable_cores()}
            if args.searches:
                result["speed"] = _speed(args, server, folder / "direct", queries)
            if args.minutes:
                from benchmarks.serving_load import mixed_load

                result["load"] = mixed_load(server, folder / "served", queries, args.minutes)
        finally:
            server.stop()
    write_json(args.out, result)


def _photographs(data: str | None, count: int, folder: Path) -> list[str]:
    if data is not None:
        return find_images([data_folder(data) / "paris"])[:count]
    views = count // 8
    render_collection(folder / "drawn", views_per_place=views, distractors=count - 2 * views)
    return find_images([folder / "drawn" / "photos"])


def _speed(args: argparse.Namespace, server: Server, directory: Path, queries: list[str]) -> list[dict[str, Any]]:
    rows = []
    with Engine.open(directory, readonly=True, auto_refresh=True) as engine:
        kinds = _kinds(engine, server, queries)
        for kind in kinds:  # warm; and they do the same
            for query in kind.queries[: 2 * usable_cores()]:
                if kind.direct(query) != kind.served(query):
                    raise SystemExit(f"{query}: the server's hits are others than those of Engine.search")
        for kind in kinds:
            for clients in args.clients:
                rows.append(_measured(server, kind, clients, args.searches) | {"adding": False})
        for clients in args.clients:
            with _adding(engine, server, queries[0]) as added:
                row = _measured(server, kinds[0], clients, args.searches) | {"adding": True}
            rows.append(row | {"added": added["count"]})
    _print_speed(rows)
    return rows


def _kinds(engine: Engine, server: Server, paths: list[str]) -> list[Kind]:
    files = {path: Path(path).read_bytes() for path in paths}
    said = [(name, str(value)) for name, value in _OPTIONS.items()]

    def by_id(query: str) -> list[str]:
        return [hit.id for hit in engine.search(query, exclude=query, **_OPTIONS)]

    def by_photograph(query: str) -> list[str]:
        return [hit.id for hit in engine.search(query, **_OPTIONS)]

    def served(part: tuple[str, str | bytes]) -> list[str]:
        hits = server.got("POST", "/v1/search", [part, *said])["hits"]
        return [hit["photo"]["ref"] for hit in hits]

    return [
        Kind("id", engine.ids()[:: max(1, len(engine) // 32)], by_id, lambda query: served(("id", query))),
        Kind("photograph", paths, by_photograph, lambda query: served(("file", files[query]))),
    ]


def _measured(server: Server, kind: Kind, clients: int, count: int) -> dict[str, Any]:
    """Ask `count` times, and both in turn; return seconds of searches, and searches a second."""
    sides = {"direct": (kind.direct, min(clients, usable_cores())), "served": (kind.served, clients)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    whole = dict.fromkeys(sides, 0.0)
    rounds = count if clients == 1 else _ROUNDS
    queries = cycle(kind.queries)
    before = _searching(server)
    with ExitStack() as stack:
        pools = {name: stack.enter_context(ThreadPoolExecutor(threads)) for name, (_, threads) in sides.items()}
        for number in range(rounds):
            block = list(islice(queries, max(clients, count // rounds) if clients > 1 else 1))
            for name in sorted(sides, reverse=bool(number % 2)):
                took, each = timed(partial(_asked, pools[name], sides[name][0], block))
                whole[name] += took
                seconds[name] += each
    row: dict[str, Any] = {"query": kind.name, "clients": clients}
    for name, values in seconds.items():
        p50, p99 = np.percentile(values, (50, 99)).tolist()
        row[name] = {"a_second": len(values) / whole[name], "p50_ms": 1000 * p50, "p99_ms": 1000 * p99}
    row["share"] = row["served"]["a_second"] / row["direct"]["a_second"]
    if clients == 1:  # of the same query, asked directly just before or after
        differences = [b - a for a, b in zip(seconds["direct"], seconds["served"], strict=True)]
        row["overhead_ms"] = 1000 * statistics.median(differences)
        row["around_ms"] = 1000 * (sum(seconds["served"]) - _searching(server) + before) / count
    return row


def _asked(pool: ThreadPoolExecutor, ask: Ask, queries: list[str]) -> list[float]:
    return list(pool.map(lambda query: timed(lambda: ask(query))[0], queries))


def _searching(server: Server) -> float:
    """Return the seconds that the server has spent on searches themselves."""
    text = server.ask("GET", "/metrics").body.decode()
    found = re.search(r'stage_seconds_sum{stage="answer"} (\S+)', text)
    return float(found[1]) if found else 0.0


@contextmanager
def _adding(engine: Engine, server: Server, path: str) -> Iterator[dict[str, int]]:
    """Let both add a photograph and remove it again, over and over; yield how often both did."""
    done, count = threading.Event(), {"count": 0}
    data = Path(path).read_bytes()

    def directly() -> None:
        with Engine.open(engine.directory) as writer:
            engine.state.lend_extractor(writer.state)
            while not done.is_set():
                writer.add([path], ids=["new"])
                writer.remove(["new"])
                count["count"] += 1

    def by_server() -> None:
        while not done.is_set():
            job = server.ended(server.got("POST", "/v1/images", [("files", data)]))
            server.got("DELETE", f"/v1/images?id={quote(job['added'][0]['id'])}")
            count["count"] += 1

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(each) for each in (directly, by_server)]
        try:
            yield count
        finally:
            done.set()
            for each in both:
                each.result()


def _print_speed(rows: list[dict[str, Any]]) -> None:
    table = [
        [
            f"{row['query']}{', adding' if row['adding'] else ''}",
            str(row["clients"]),
            *(f"{row[side]['a_second']:.2f}" for side in ("served", "direct")),
            f"{row['share']:.0%}",
            *(f"{row[side][at]:.0f}" for side in ("served", "direct") for at in ("p50_ms", "p99_ms")),
            *(f"{row[name]:+.1f}" if name in row else "" for name in ("overhead_ms", "around_ms")),
        ]
        for row in rows
    ]
    columns = ["query", "clients", "served a second", "direct", "share", "served p50 ms", "p99", "direct p50 ms"]
    print_table("searches by a server and direct", [*columns, "p99 ", "overhead ms", "around it ms"], table)
    slow = [row for row in rows if not row["adding"] and row.get("overhead_ms", 0) > _MOST_MS]
    few = [row for row in rows if row["clients"] > 1 and not row["adding"] and row["share"] < _LEAST_SHARE]
    for row in (*slow, *few):
        print(f"missed: {row['query']}, {row['clients']} clients (at most {_MOST_MS} ms, at least {_LEAST_SHARE})")


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out/serving.json", data=True, model=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--searches", type=int, default=64, help="a row; 0: no speed is measured")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--minutes", type=float, default=0.0, help="of mixed load")
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
