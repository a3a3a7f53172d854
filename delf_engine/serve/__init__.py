"""An engine over HTTP: a page, and an API under ``/v1``, safe by default; see `create_app`."""

from __future__ import annotations

from delf_engine.serve.app import create_app, run
from delf_engine.serve.settings import Settings, read_token

__all__ = ["Settings", "create_app", "read_token", "run"]
