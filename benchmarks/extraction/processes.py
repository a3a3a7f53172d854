"""Two processes that extract at the same time, while waiting threads of torch spin, or sleep.

    python -m benchmarks.extraction.processes [--model delf-r18] [--photos DIR] [--rounds 3]

Threads that wait for each other spin unless told otherwise (libgomp), and so take the cores of the other process.
They can sleep at once (`OMP_WAIT_POLICY=PASSIVE`) or "soon" (`GOMP_SPINCOUNT=1000`). One thread a process
(`OMP_NUM_THREADS=1`) has nothing to wait for. Seconds a photograph, from a JPEG file of 1024 x 768 pixels to
features; medians over rounds, in which all ways take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.common import options_parser, print_table, write_json
from benchmarks.extraction.speed import photographs

_WAYS: Final = {
    "spinning": {},
    "asleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "soon asleep": {"GOMP_SPINCOUNT": "1000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
_PROGRAM = """
import sys, time
from delf_engine import Extractor
extractor = Extractor.from_pretrained(sys.argv[1], device="cpu")
extractor(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
start = time.perf_counter()
for path in 8 * sys.argv[2:]:
    extractor(path)
print((time.perf_counter() - start) / 8 / len(sys.argv[2:]))
"""


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write JSON."""
    args = _arguments(arguments)
    found: dict[tuple[int, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(args.photos, Path(folder), (1024, 768))
        for _ in range(args.rounds):
            for processes in (1, 2):
                for way in _WAYS:
                    found.setdefault((processes, way), []).extend(_seconds(args.model, files, processes, way))
    medians = {key: statistics.median(values) for key, values in found.items()}
    rows = [
        [
            str(n),
            *(f"{medians[n, way]:.3f}" for way in _WAYS),
            f"{medians[n, 'spinning'] / medians[n, 'soon asleep']:.2f}",
        ]
        for n in (1, 2)
    ]
    title = f"{args.model}: seconds a photograph and process"
    print_table(title, ["processes", *_WAYS, "spinning / soon asleep"], rows)
    write_json(args.out, {"rounds": args.rounds, "seconds": {f"{n} {way}": s for (n, way), s in found.items()}})


def _seconds(model: str, files: list[Path], processes: int, way: str) -> list[float]:
    """Return the seconds a photograph of each of some processes that start at the same moment."""
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-c", _PROGRAM, model, *map(str, files)]
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen(command, env=unset | _WAYS[way], stdin=pipe, stdout=pipe, text=True)
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [float(process.communicate()[0]) for process in started]


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out/extraction_processes.json", model=True)
    parser.add_argument("--photos", type=Path, help="folder to take photographs from; default: scikit-learn's two")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
