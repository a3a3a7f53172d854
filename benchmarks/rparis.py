"""RParis6k: photographs in, tables out; see ``python benchmarks/rparis.py --help``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a script starts with its own folder there
    from benchmarks.revisited.run import main

    main("rparis6k")
