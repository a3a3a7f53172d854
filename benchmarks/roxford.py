"""ROxford5k: photographs in, tables out; see ``python benchmarks/roxford.py --help``."""

from revisited import main

if __name__ == "__main__":
    main("roxford5k")
