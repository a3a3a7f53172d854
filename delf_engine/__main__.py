"""Run the command line with ``python -m delf_engine``."""

from delf_engine.cli import main

if __name__ == "__main__":
    main()
