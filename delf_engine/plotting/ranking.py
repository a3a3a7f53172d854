"""A contact sheet of a query and its ranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from delf_engine.errors import DataError
from delf_engine.images import ImageSource, load_reduced
from delf_engine.plotting.canvas import COLOURS, INK, RULE, canvas, place_photo, shrunk

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from delf_engine.verification.result import Verdict

_COLUMNS = 5  # the query's not counted
_CELL, _CELL_GAP, _CAPTION_HEIGHT = 220, 18, 44
_CAPTION_LETTERS = 32
_OTHER = "#afb8c1"


def draw_ranking(
    query: ImageSource,
    images: Sequence[ImageSource],
    captions: Sequence[str],
    *,
    verdicts: Sequence[Verdict | None] | None = None,
    query_caption: str = "query",
) -> Figure:
    """Draw a contact sheet: the query, and the images of a ranking in order.

    Parameters
    ----------
    query : path, bytes, PIL image or array
    images : sequence of the same
        Best first.
    captions : sequence of str
        One under each image; it may have two lines.
    verdicts : sequence of "same", "unsure", "different" or None, optional
        On each image: a green, a yellow or a grey frame, none for None.
    query_caption : str

    Raises
    ------
    ImageError
        If an image cannot be read.
    DataError
        If captions or decisions are not as many as images.
    """
    decisions = [None] * len(images) if verdicts is None else list(verdicts)
    if not len(images) == len(captions) == len(decisions):
        raise DataError(
            f"{len(images)} images, {len(captions)} captions and {len(decisions)} decisions do not fit"
        )
    rows = max(1, -(-len(images) // _COLUMNS))
    used = max(1, min(_COLUMNS, len(images)))
    split = _CELL + 3 * _CELL_GAP  # left edge of the ranking, after the query and a rule
    row_height = _CELL + _CAPTION_HEIGHT + _CELL_GAP
    figure, axes, top = canvas(split + used * (_CELL + _CELL_GAP), rows * row_height)
    _thumbnail(axes, query, query_caption, _CELL_GAP, top, INK)
    axes.plot([split - _CELL_GAP] * 2, [top, top + rows * row_height - _CELL_GAP], color=RULE, linewidth=1)
    for place, (image, caption, decision) in enumerate(zip(images, captions, decisions, strict=True)):
        row, column = divmod(place, _COLUMNS)
        frame = None if decision is None else {**COLOURS, "different": _OTHER}[decision]
        _thumbnail(axes, image, caption, split + column * (_CELL + _CELL_GAP), top + row * row_height, frame)
    return figure


def _thumbnail(axes: Axes, image: ImageSource, caption: str, x: int, y: int, frame: str | None) -> None:
    """Put an image into the cell whose upper left corner is (x, y), its caption below and a frame around it."""
    photo, _ = load_reduced(image, lambda _: _CELL, always=False)
    photo = shrunk(photo, height=_CELL, width=_CELL)
    height, width = photo.shape[:2]
    # The feet of a row stand on one line, above the captions.
    outline = place_photo(axes, photo, x + (_CELL - width) / 2, y + _CELL - height)
    if frame is not None:
        outline.set(fill=False, edgecolor=frame, linewidth=3)
        axes.add_patch(outline)
    axes.text(x + _CELL / 2, y + _CELL + 8, _shortened(caption), fontsize=10, color=INK, ha="center", va="top",
              linespacing=1.3, parse_math=False)  # fmt: skip


def _shortened(caption: str) -> str:
    """Cut the middle out of lines that would run into the neighbour's."""
    half = _CAPTION_LETTERS // 2
    lines = caption.splitlines()
    return "\n".join(x if len(x) <= _CAPTION_LETTERS else f"{x[:half]}…{x[-half + 1 :]}" for x in lines)
