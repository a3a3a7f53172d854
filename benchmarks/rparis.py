"""RParis6k: photographs in, tables out; see ``python benchmarks/rparis.py --help``."""

from revisited import main

if __name__ == "__main__":
    main("rparis6k")
