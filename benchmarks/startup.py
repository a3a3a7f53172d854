"""How long it takes to start, beside Python itself and beside importing torch.

python -m benchmarks.startup [--runs 7]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.common import options_parser, print_table, write_json

_COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import delf_engine": [sys.executable, "-c", "import delf_engine"],
    "delf-engine --help": [sys.executable, "-m", "delf_engine", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def main() -> None:
    """Run each command several times in turn, print medians, write JSON."""
    parser = options_parser(__doc__, "out/startup.json")
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    for _ in range(args.runs + 1):  # the first round fills the disk cache
        for name, command in _COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    table = [[name, f"{value:.2f}"] for name, value in medians.items()]
    print_table(f"whole processes, median of {args.runs} runs", ["command", "seconds"], table)
    write_json(args.out, {"seconds": medians})


if __name__ == "__main__":
    main()
