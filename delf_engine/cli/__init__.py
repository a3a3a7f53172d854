"""The command line: ``delf-engine``."""

from delf_engine.cli.app import app, main

__all__ = ["app", "main"]
