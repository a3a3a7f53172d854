"""A script of changes to an index, run in a process that may be killed, and what they come to."""

from __future__ import annotations

from typing import Any

from delf_engine.features import LocalFeatures
from index.kinds import IMAGES, NAMES

Contents = dict[str, LocalFeatures]


def apply(step: int, index: Any, contents: Contents) -> None:
    """Change an index, unless it is None, and the dictionary that it must equal."""
    image = IMAGES[NAMES[step % 8]]
    ids, what = list(contents), step % 9
    if what in (4, 7):
        name = ids[step % len(ids)]
        contents.pop(name)
        contents[name] = image
        if index is not None:
            index.remove([name])
            index.add([name], [image])
    elif what == 5:
        name = ids[step % len(ids)]
        contents.pop(name)
        if index is not None:
            index.remove([name])
    elif what == 8:
        if index is not None:
            index.compact()
    else:
        contents[f"step {step}"] = image
        if index is not None:
            index.add([f"step {step}"], [image])


def contents_after(steps: int) -> Contents:
    """What the first steps come to."""
    contents: Contents = {}
    for step in range(steps):
        apply(step, None, contents)
    return contents
