"""Copies among photographs: which is the same, a crop, an edit of which, and where.

`find` has the stages: `signature` proposes near copies, an engine proposes parts, `pixels` decides. `result` holds
what was found, `report` draws it.
"""

from delf_engine.copies.find import find_copies
from delf_engine.copies.report import write_copies_report
from delf_engine.copies.result import Copies, Copy, dismiss

__all__ = ["Copies", "Copy", "dismiss", "find_copies", "write_copies_report"]
