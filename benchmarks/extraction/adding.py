"""How fast `add` is by workers, and whether its memory grows with the number of images.

    python -m benchmarks.extraction.adding speed [--photos DIR] [--workers 0 1 2]
    python -m benchmarks.extraction.adding memory [--counts 100 1000 10000] [--side 96]

"speed" adds the same photographs to a new engine each time, in turns with `plain`: the same engine's extractor
called on one file after the other and committed at the end. "memory" adds that many different small images, each
run in a process of its own, and prints its peak of memory that is not files (anonymous pages, all processes of the
run together, sampled), with what the features and the index alone take on disk.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import data_folder, memory, options_parser, own_process, print_table, write_json
from delf_engine import Engine
from delf_engine.images import find_images


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what was asked for."""
    args = _arguments(arguments)
    if args.what == "one":
        _add_synthetic(args.counts[0], args.side)
    elif args.what == "memory":
        _memory(args)
    else:
        _speed(args)


def _speed(args: argparse.Namespace) -> None:
    photos = find_images([args.photos or data_folder(None) / "strecha"])[: args.max_photos]
    with tempfile.TemporaryDirectory() as folder:
        _timed(photos[:2], Path(folder, "warm"), 0)
        taken: dict[str, list[float]] = {}
        for turn in range(args.rounds):  # in turns: a machine is not equally fast all the time
            taken.setdefault("plain", []).append(_plain(photos, Path(folder, f"plain{turn}")))
            for n in args.workers:
                taken.setdefault(f"{n} workers", []).append(_timed(photos, Path(folder, f"{n}-{turn}"), n))
        rows = [(name, median(seconds)) for name, seconds in taken.items()]
    table = [[name, f"{s:.1f}", f"{len(photos) / s:.2f}", f"{rows[0][1] / s:.2f}"] for name, s in rows]
    columns = ["how", "seconds", "images a second", "plain / this"]
    print_table(f"adding {len(photos)} photographs, median of {args.rounds} turns", columns, table)
    write_json(args.out / "adding_speed.json", {"photographs": len(photos), "seconds": taken})


def _timed(photos: Sequence[str], folder: Path, workers: int) -> float:
    with Engine.create(folder) as engine:
        _ = engine.extractor  # loaded before the clock starts
        start = time.perf_counter()
        engine.add(photos, workers=workers)
        return time.perf_counter() - start


def _plain(photos: Sequence[str], folder: Path) -> float:
    with Engine.create(folder) as engine:
        extractor = engine.extractor
        start = time.perf_counter()
        engine.add_features([(path, extractor(path)) for path in photos])
        return time.perf_counter() - start


def _memory(args: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    for count in args.counts:
        peak, seconds = _peak(
            own_process("benchmarks.extraction.adding", "one", "--counts", count, "--side", args.side)
        )
        rows.append({"images": count, "peak_mb": peak / 2**20, "seconds": seconds})
    table = [
        [
            str(r["images"]),
            f"{r['peak_mb']:.0f}",
            f"{r['peak_mb'] / rows[0]['peak_mb']:.3f}",
            f"{r['seconds']:.0f}",
        ]
        for r in rows
    ]
    print_table(f"adding images of {args.side} px", ["images", "peak MB", "/ first", "seconds"], table)
    write_json(args.out / "adding_memory.json", {"side": args.side, "rows": rows})


def _peak(process: subprocess.Popen[str]) -> tuple[int, float]:
    """Wait for a process; return the peak of anonymous memory of it and all its descendants, and its seconds."""
    start = time.perf_counter()
    peak, done = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, sum(memory("RssAnon", each) or 0 for each in _family(process.pid)))

    thread = threading.Thread(target=sample)
    thread.start()
    said, _ = process.communicate()
    done.set()
    thread.join()
    if process.returncode:
        raise SystemExit(f"{process.args!r} ended with {process.returncode}: {said}")
    return peak, time.perf_counter() - start


def _family(pid: int) -> list[int]:
    """Return a process and all its descendants, but for copies that have not become a program of their own yet."""
    found = [pid]
    for parent in found:
        try:
            command = Path(f"/proc/{parent}/cmdline").read_bytes()
            for task in Path(f"/proc/{parent}/task").iterdir():
                for child in map(int, (task / "children").read_text().split()):
                    if Path(f"/proc/{child}/cmdline").read_bytes() != command:
                        found.append(child)
        except OSError:
            continue
    return found


def _add_synthetic(count: int, side: int) -> None:
    """Write `count` different images and add them."""
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        with Engine.create(Path(folder, "engine")) as engine:
            files = Path(folder, "files")
            files.mkdir()
            ids = [f"{i}.jpg" for i in range(count)]
            rng = np.random.default_rng(0)
            for name in ids:
                coarse = rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8)
                cv2.imwrite(str(files / name), cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))
            report = engine.add([str(files / name) for name in ids], ids=ids, workers=2)
            assert len(report.added) == count
        sizes = {p.name: p.stat().st_size for p in Path(folder, "engine").rglob("*") if p.is_file()}
        print(f"{count} images: {sum(sizes.values()) / 2**20:.1f} MB on disk", file=sys.stderr)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out")
    parser.add_argument("what", choices=["speed", "memory", "one"])
    parser.add_argument("--photos", type=Path, help="for speed; default: strecha/ in the data folder")
    parser.add_argument("--max-photos", type=int, default=40)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=5, help="for speed")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--side", type=int, default=96, help="of the images, in pixels")
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
