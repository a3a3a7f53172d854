"""What memory extraction takes: of large photographs, and over images of ever new sizes.

    python -m benchmarks.extraction.memory large [--model delf-r18]
    python -m benchmarks.extraction.memory sizes [--count 1000] [--longest 900]

"large" extracts a JPEG of 108 megapixels, baseline and progressive, and a panorama of 180, each in a process of
its own: decoded reduced, as above `max_pixels`, and whole. The peak is that of resident memory during the call,
above what the process had after a small photograph. A progressive file needs room for all its coefficients however
small it is decoded.

"sizes" extracts so many images in one process, no two of one size, and prints its resident memory and the peak so
far. "kept" is the same without giving idle memory back (`delf_engine.support.memory`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import measured_apart, memory, options_parser, print_table, write_json
from delf_engine import Extractor
from delf_engine.support.memory import Heap

_MB = 1 << 20
_SMALL = np.full((768, 1024, 3), 127, np.uint8)
_LARGE = {"108 megapixels": (12000, 9000), "panorama": (30000, 6000)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what was asked for."""
    args = _arguments(arguments)
    if args.what == "one":
        print(json.dumps(_one_large(args) if args.file else _one_of_sizes(args)))
    elif args.what == "large":
        _large(args)
    else:
        _sizes(args)


def _large(args: argparse.Namespace) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, size in _LARGE.items():
            photo = _photograph(*size)
            for progressive in (False, True):
                file = Path(folder, "large.jpg")
                photo.save(file, quality=85, progressive=progressive)
                for limit in (None, size[0] * size[1]):
                    given = ["one", "--model", args.model, "--file", file]
                    found = measured_apart(__spec__.name, *given, *(["--max-pixels", limit] if limit else []))
                    kind = "progressive" if progressive else "baseline"
                    how = "whole" if limit else "reduced"
                    rows.append({"photograph": name, "size": size, "jpeg": kind, "decoded": how, **found})
    columns = ["photograph", "jpeg", "decoded", "peak_mb", "seconds", "features"]
    print_table("large photographs", columns, [[_shown(row[c]) for c in columns] for row in rows])
    write_json(args.out / "memory_large.json", {"model": args.model, "rows": rows})


def _one_large(args: argparse.Namespace) -> dict[str, Any]:
    """Extract a small photograph, then the large one."""
    extractor = Extractor.from_pretrained(args.model, device="cpu", max_pixels=args.max_pixels)
    extractor(_SMALL)
    before = memory("VmRSS") or 0
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    start = time.perf_counter()
    features = extractor(args.file)
    seconds = time.perf_counter() - start
    return {"peak_mb": ((memory("VmHWM") or 0) - before) / _MB, "seconds": seconds, "features": len(features)}


def _sizes(args: argparse.Namespace) -> None:
    given = ["one", "--model", args.model, "--count", args.count, "--longest", args.longest]
    rows = {
        how: measured_apart(__spec__.name, *given, *(["--keep"] if how == "kept" else []))
        for how in ("given back", "kept")
    }
    table = [
        [how, str(images), f"{resident:.0f}", f"{peak:.0f}", f"{seconds:.0f}"]
        for how, found in rows.items()
        for images, resident, peak, seconds in found["rows"]
    ]
    print_table("images of ever new sizes", ["idle memory", "images", "resident MB", "peak MB", "seconds"], table)
    write_json(args.out / "memory_sizes.json", {"model": args.model, "longest": args.longest, **rows})


def _one_of_sizes(args: argparse.Namespace) -> dict[str, Any]:
    """Extract images of different sizes in random order, after the largest one."""
    if args.keep:
        Heap.give_back = lambda _: None  # type: ignore[assignment, method-assign]
    extractor = Extractor.from_pretrained(args.model, device="cpu")
    rng = np.random.default_rng(0)
    sizes = rng.permutation(
        [(w, h) for w in range(args.longest // 3, args.longest) for h in (w * 2 // 3, w * 3 // 4)]
    )
    if args.count > len(sizes):
        raise SystemExit(f"--longest {args.longest} has only {len(sizes)} sizes")
    pixels = rng.integers(0, 256, (args.longest, args.longest, 3), np.uint8)
    extractor(pixels)
    rows = []
    start = time.perf_counter()
    for done, (width, height) in enumerate(sizes[: args.count].tolist(), 1):
        extractor(pixels[:height, :width])
        if done in (1, args.count) or done % max(1, args.count // 5) == 0:
            figures = ((memory(kind) or 0) / _MB for kind in ("VmRSS", "VmHWM"))
            rows.append((done, *figures, time.perf_counter() - start))
    return {"rows": rows}


def _photograph(width: int, height: int) -> Image.Image:
    """Return noise at a coarse and a fine scale: its file is as large as a photograph's."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 100, width // 100, 3), np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).copy()
    for top in range(0, height, 1000):
        pixels[top : top + 1000] //= 2
        pixels[top : top + 1000] += rng.integers(0, 64, pixels[top : top + 1000].shape, np.uint8)
    return Image.fromarray(pixels)


def _shown(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out")
    parser.add_argument("what", choices=["large", "sizes", "one"])
    parser.add_argument("--model", default="delf-r18")
    parser.add_argument("--count", type=int, default=1000, help="of images, for sizes")
    parser.add_argument("--longest", type=int, default=900, help="side of the largest of them, in pixels")
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--max-pixels", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
