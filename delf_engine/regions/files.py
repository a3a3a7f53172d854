"""Files of boxes, as any detector can write them: JSON lines or CSV, by the ending of the name.

==========  ====================================================================================================
``.jsonl``  one image a line: ``{"image": name, "boxes": [[x0, y0, x1, y1], ...], "scores": [...]}``
``.csv``    one box a line, columns ``image,x0,y0,x1,y1,score``
==========  ====================================================================================================

Scores may be left out.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import DataError, FeatureError, FormatError
from delf_engine.regions.boxes import Boxes, checked_boxes
from delf_engine.support.files import replacing

__all__ = ["read_boxes", "write_boxes"]

_CORNERS = ("x0", "y0", "x1", "y1")
_RECORD = '{"image": name, "boxes": [[x0, y0, x1, y1], ...]}, "scores": [...] if there are any'

# Line, image, boxes, scores or None.
_Entry = tuple[int, str, Any, Any]


def read_boxes(path: str | os.PathLike[str], *, min_score: float | None = None) -> dict[str, Boxes]:
    """Read the boxes of many images.

    Parameters
    ----------
    path : path
        Ending in ``.jsonl`` or ``.csv``. In JSON lines an image has one line; in CSV its boxes may be anywhere.
    min_score : float or None
        If given, boxes of a lower score are left out, and every box needs a score.

    Returns
    -------
    dict of image name to (R, 4) float32
        x0, y0, x1, y1 in pixels; images and boxes in order of the file. An image whose boxes are all left out has
        (0, 4).

    Raises
    ------
    FormatError
        If the file cannot be read or a line is wrong. It names the file, the line, and what is expected.
    """
    path = Path(path)
    read = {".jsonl": _json_entries, ".csv": _csv_entries}[_ending(path)]
    found: dict[str, list[Boxes]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            for line, image, boxes, scores in read(path, lines):
                found.setdefault(image, []).append(_kept(f"{path}, line {line}", boxes, scores, min_score))
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: is not UTF-8 text: {error}") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    return {image: np.concatenate(parts) for image, parts in found.items()}


def write_boxes(
    path: str | os.PathLike[str],
    boxes: Mapping[str, npt.ArrayLike],
    scores: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Write boxes so that `read_boxes` returns them; a CSV file has no place for an image without boxes.

    Parameters
    ----------
    path : path
        Ending in ``.jsonl`` or ``.csv``.
    boxes : mapping of image name to (R, 4) float32
    scores : mapping of image name to (R,) float, or None
        Of the same images.

    Raises
    ------
    DataError
        If boxes or scores are wrong or do not belong together.
    FormatError
        If there is no such format, or the file cannot be written.
    """
    path = Path(path)
    kind = _ending(path)
    entries = list(_checked_entries(boxes, scores))
    try:
        with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            if kind == ".csv":
                # Text quoted, so that a name may hold anything.
                writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
                writer.writerow(["image", *_CORNERS, *([] if scores is None else ["score"])])
                for image, rows, values in entries:
                    writer.writerows([image, *row, *values[i : i + 1]] for i, row in enumerate(rows))
            else:
                for image, rows, values in entries:
                    record = {"image": image, "boxes": rows, **({} if scores is None else {"scores": values})}
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
    except OSError as error:
        raise FormatError(f"{path}: cannot be written: {error.strerror or error}") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: a name is no valid text: {error}; rename the image") from error
    except csv.Error as error:  # Python 3.10 cannot write a NUL
        raise DataError(f"{path}: CSV cannot hold one of these names ({error}); use .jsonl") from error


def _checked_entries(
    boxes: Mapping[str, npt.ArrayLike], scores: Mapping[str, Sequence[float]] | None
) -> Iterator[tuple[str, list[list[float]], list[float]]]:
    if scores is not None and set(scores) != set(boxes):
        raise DataError(
            f"scores of {len(scores)} images do not belong to boxes of {len(boxes)}; give both the same"
        )
    for image, given in boxes.items():
        try:
            array = checked_boxes(given)
        except FeatureError as error:
            raise DataError(f"{image}: {error}") from error
        values = [] if scores is None else [float(score) for score in scores[image]]
        if scores is not None and (len(values) != len(array) or not np.isfinite(values).all()):
            raise DataError(f"{image}: {len(array)} boxes need as many finite scores, got {values[:10]}")
        yield image, array.tolist(), values


def _ending(path: Path) -> str:
    if path.suffix.lower() not in (".jsonl", ".csv"):
        raise FormatError(f"{path}: the ending must be .jsonl or .csv")
    return path.suffix.lower()


def _json_entries(path: Path, lines: Iterable[str]) -> Iterator[_Entry]:
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path}, line {number}: is not JSON: {error}; expected {_RECORD}") from error
        if (
            not isinstance(record, dict)
            or not isinstance(record.get("image"), str)
            or not isinstance(record.get("boxes"), list)
        ):
            raise FormatError(f"{path}, line {number}: expected {_RECORD}")
        image = record["image"]
        if image in seen:
            raise FormatError(
                f"{path}, line {number}: image {image!r} stands in line {seen[image]} too; put its boxes in one"
            )
        seen[image] = number
        yield number, image, record["boxes"], record.get("scores")


def _csv_entries(path: Path, lines: Iterable[str]) -> Iterator[_Entry]:
    rows = csv.reader(lines, strict=True)
    columns: list[str] = []
    try:
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if not row:
                continue
            if not columns:
                columns = [name.strip() for name in row]
                if len(set(columns)) != len(columns) or not {"image", *_CORNERS} <= set(columns):
                    raise FormatError(
                        f"{where}: expected the columns image,x0,y0,x1,y1,score, got {','.join(row)}"
                    )
                continue
            if len(row) != len(columns):
                raise FormatError(f"{where}: {len(row)} columns instead of {len(columns)}")
            values = dict(zip(columns, row, strict=True))
            score = values.get("score", "").strip()
            box = [_number(where, name, values[name]) for name in _CORNERS]
            yield rows.line_num, values["image"], [box], [_number(where, "score", score)] if score else None
    except csv.Error as error:
        raise FormatError(f"{path}, line {rows.line_num}: {error}") from error


def _number(where: str, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise FormatError(f"{where}: {name} must be a number, got {text!r}") from None


def _kept(where: str, boxes: Any, scores: Any, min_score: float | None) -> Boxes:
    """Return the boxes of one line that score enough."""
    if not all(isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)) for box in boxes):
        raise FormatError(f"{where}: every box must be four numbers, x0, y0, x1, y1")
    try:
        array = checked_boxes(boxes)
    except (FeatureError, OverflowError) as error:
        raise FormatError(
            f"{where}: {error}; boxes are x0, y0, x1, y1 in pixels, not x, y, width, height"
        ) from error
    if scores is None and min_score is not None and len(array):
        raise FormatError(f"{where}: has no scores, so min_score cannot be applied; leave it out or add scores")
    if scores is None:
        return array
    if not isinstance(scores, list) or len(scores) != len(array) or not all(map(_is_finite, scores)):
        raise FormatError(f"{where}: {len(array)} boxes need as many finite scores")
    return array if min_score is None else array[np.array(scores, np.float64) >= min_score]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and abs(value) <= 1e300 and math.isfinite(value)
