"""Importing the files of a folder, so that what they register is known without being listed anywhere."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable

__all__ = ["import_all"]


def import_all(package: str, folders: Iterable[str]) -> None:
    """Import every module of `package`, whose ``__path__`` is `folders`, in the order of their names."""
    for name in sorted(module.name for module in pkgutil.iter_modules(folders)):
        importlib.import_module(f"{package}.{name}")
