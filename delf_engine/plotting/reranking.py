"""A contact sheet of a shortlist before and after re-ranking."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from delf_engine.errors import ConfigError, DataError
from delf_engine.images import ImageSource
from delf_engine.plotting.moves import moves
from delf_engine.plotting.page import INK, NO, QUIET, RULE, WRONG, YES, page, write
from delf_engine.plotting.ranking import CAPTION_HEIGHT, CELL, CELL_GAP, OTHER, thumbnail

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_reranking"]

_HEAD = 30  # above each block
_KEY = 30  # below the last one


def draw_reranking(
    query: ImageSource,
    before: Sequence[str],
    after: Sequence[str],
    *,
    images: Mapping[str, ImageSource] | Callable[[str], ImageSource] | None = None,
    inliers: Mapping[str, int | None] | None = None,
    same: Mapping[str, bool | None] | None = None,
    truth: Mapping[str, bool | None] | None = None,
    query_caption: str = "query",
    columns: int = 5,
    limit: int = 10,
    title: str | None = None,
) -> Figure:
    """Draw a contact sheet: the query, the first images of a shortlist, and the first ones after re-ranking.

    Under each image stand its place, its name and, after re-ranking, its inliers and how far it rose or fell;
    before it, the place it goes to. Moves are counted over the whole lists, not over what is shown of them.

    Parameters
    ----------
    query : path, bytes, PIL image or array
    before, after : sequence of str
        Ids of the same shortlist in both orders, best first. An id that is only in `after` is called new, one that
        is only in `before` is said to be left out.
    images : mapping or function from id to path, bytes, PIL image or array; or None
        None: ids are paths.
    inliers : mapping of id to int or None, optional
        Ids that it does not have, or has None for, were not verified.
    same : mapping of id to bool or None, optional
        The decision: a green frame for True, a grey one for False, none otherwise.
    truth : mapping of id to bool or None, optional
        The right answer, which then gives the frames instead: green for True, red for False, grey where it is
        not known.
    query_caption : str
    columns : int
        Images in a row, the query's column not counted.
    limit : int
        Images shown of each ranking.
    title : str or None

    Raises
    ------
    ImageError
        If an image cannot be read.
    DataError
        If an id stands twice in a ranking, or `images` does not have one that is to be shown.
    ConfigError
        If `columns` or `limit` is below 1.
    """
    for name, value in (("columns", columns), ("limit", limit)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    found = moves(before, after)
    blocks = {"before re-ranking": list(before[:limit]), "after re-ranking": list(after[:limit])}
    used = max(1, min(columns, max(map(len, blocks.values()))))
    rows = [max(1, -(-len(ids) // columns)) for ids in blocks.values()]
    split = CELL + 3 * CELL_GAP  # left edge of the rankings, after the query and a rule
    row_height = CELL + CAPTION_HEIGHT + CELL_GAP
    height = sum(rows) * row_height + 2 * _HEAD
    figure, axes, top = page(split + used * (CELL + CELL_GAP), height + _KEY, title)
    thumbnail(axes, query, query_caption, CELL_GAP, top + _HEAD, INK)
    axes.plot([split - CELL_GAP] * 2, [top, top + height - CELL_GAP], color=RULE, linewidth=1)

    y = top
    for (head, ids), count in zip(blocks.items(), rows, strict=True):
        of = len(before) if head.startswith("before") else len(after)
        write(axes, split, y + 12, f"{head}: {len(ids)} of {of}", size=12, align="left")
        for place, image_id in enumerate(ids):
            row, column = divmod(place, columns)
            move = found[image_id]
            if head.startswith("before"):
                said, colour = "left out" if move.after is None else f"goes to {move.after}", QUIET
            else:
                said = f"{_evidence(inliers, image_id)}{move}"
                colour = YES if move.rise > 0 else NO if move.rise < 0 else QUIET
            caption = f"{place + 1}. {os.path.basename(image_id) or image_id}"
            cell = split + column * (CELL + CELL_GAP), y + _HEAD + row * row_height
            thumbnail(axes, _image(images, image_id), caption, *cell, _frame(image_id, same, truth))
            write(axes, cell[0] + CELL / 2, cell[1] + CELL + 34, said, size=10, color=colour)
        y += _HEAD + count * row_height
    key = "green: same place, grey: not" if truth is None else "green: right, red: wrong, grey: not known"
    if same is not None or truth is not None:
        write(axes, split, top + height + 6, f"frames: {key}", size=10, color=QUIET, align="left")
    return figure


def _image(images: Mapping[str, ImageSource] | Callable[[str], ImageSource] | None, image_id: str) -> ImageSource:
    if images is None:
        return image_id
    if callable(images):
        return images(image_id)
    if image_id not in images:
        raise DataError(f"images has no {image_id!r}")
    return images[image_id]


def _frame(
    image_id: str, same: Mapping[str, bool | None] | None, truth: Mapping[str, bool | None] | None
) -> str | None:
    if truth is not None:
        return {True: YES, False: WRONG, None: OTHER}[truth.get(image_id)]
    return {True: YES, False: OTHER, None: None}[None if same is None else same.get(image_id)]


def _evidence(inliers: Mapping[str, int | None] | None, image_id: str) -> str:
    if inliers is None:
        return ""
    count = inliers.get(image_id)
    return "not verified · " if count is None else f"{count} inlier{'' if count == 1 else 's'} · "
