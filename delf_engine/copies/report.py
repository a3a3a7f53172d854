"""The page of copies: every cluster with its pairs, both photographs outlined where they show the same."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator

import cv2
import numpy as np

from delf_engine.copies.result import Copies, Outline
from delf_engine.errors import ImageError
from delf_engine.plotting.report.page import (
    Picture,
    check_path,
    fitting,
    jpeg_picture,
    page_templates,
    short_name,
    small_photo,
    write_page,
)

_SIDE = 320  # of a photograph, pixels
_PAIRS = 50  # of one cluster that are drawn
_BYTES = 24_000_000
_COLOUR = (255, 214, 0)


def write_copies_report(path: str | os.PathLike[str], found: Copies) -> int:
    """Write a page about copies: one HTML file that needs nothing else.

    Parameters
    ----------
    path : path
        Ending in .html; a file that is there is replaced as a whole.
    found : Copies
        Of a large cluster 50 pairs are drawn, and of many clusters those that fit into 24 MB; the page says so.

    Returns
    -------
    int
        Size of the file in bytes.

    Raises
    ------
    ConfigError
        If the name does not end in .html, or the file cannot be written.
    """
    target = check_path(path)
    sections, full = fitting(_sections(found), _BYTES)
    template = page_templates().get_template("copies.html.j2")
    return write_page(target, template.render(title="Copies", found=found, sections=sections, full=full))


def _sections(found: Copies) -> Iterator[str]:
    """Yield the part of each cluster, rendered."""
    template = page_templates().get_template("copies_cluster.html.j2")
    clusters = found.clusters
    numbers = {name: number for number, names in enumerate(clusters) for name in names}
    pairs = defaultdict(list)
    for copy in found.copies:
        pairs[numbers[copy.a]].append(copy)
    for number, names in enumerate(clusters):
        drawn = [
            (copy, _outlined(copy.a, copy.outline_a), _outlined(copy.b, copy.outline_b))
            for copy in pairs[number][:_PAIRS]
        ]
        yield template.render(number=number + 1, names=names, pairs=drawn, of=len(pairs[number]))


def _outlined(path: str, outline: Outline) -> Picture:
    """Return a small photograph with an outline in it, or why there is none."""
    try:
        small, size = small_photo(path, _SIDE)
    except ImageError as error:
        return Picture(short_name(path), reason=error.reason)
    if outline:
        points = np.array(outline) * small.shape[1::-1] / size
        points = np.clip(points, 1, np.array(small.shape[1::-1]) - 2)
        small = np.ascontiguousarray(small)
        for colour, width in (((0, 0, 0), 5), (_COLOUR, 2)):
            cv2.polylines(small, [np.rint(points).astype(np.int32)], True, colour, width, cv2.LINE_AA)
    return jpeg_picture(small, short_name(path))
