"""The layout of Google Landmarks v2 (Weyand et al., CVPR 2020).

=====================  =========================================================================================
``train.csv``          columns ``id,url,landmark_id``, one photograph a row
``train_clean.csv``    columns ``landmark_id,images``, one landmark a row, ``images`` its ids between blanks
``train/a/b/c/ID.jpg``  the photograph ``ID = abc...``; ``a/b/c/ID.jpg`` directly below the root is found too
=====================  =========================================================================================
"""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from delf_engine.errors import DataError, DelfEngineWarning, FormatError
from delf_engine.training.datasets.labelled import LabelledImages, named

__all__ = ["is_landmarks_layout", "read_landmarks"]

_LISTS = ("train_clean.csv", "train.csv")
_ID = re.compile(r"[0-9A-Za-z_-]{3,}")  # also keeps "../" out of paths


def is_landmarks_layout(path: str | os.PathLike[str]) -> bool:
    """Say whether `path` is a CSV file, or a folder with one of the two lists in it."""
    path = Path(path)
    return path.suffix.lower() == ".csv" or any((path / name).is_file() for name in _LISTS)


def read_landmarks(path: str | os.PathLike[str], *, missing: Literal["error", "drop"] = "error") -> LabelledImages:
    """List the photographs of the Google Landmarks v2 layout.

    Parameters
    ----------
    path : path
        The folder, of which ``train_clean.csv`` is read if it is there and ``train.csv`` otherwise; or the CSV
        file itself, with the photographs beside it.
    missing : "error" or "drop"
        What to do with ids that have no photograph, as where a part of the data set was downloaded.

    Raises
    ------
    FormatError
        If a file cannot be read, a column is missing, or a line is wrong. It names the file and the line.
    DataError
        If ids occur twice, photographs are missing, or there are none.

    Warns
    -----
    DelfEngineWarning
        With the number of ids dropped.
    """
    table = _find_list(Path(path))
    ids, labels = [], []
    for image_id, landmark in _read_list(table):
        ids.append(image_id)
        labels.append(landmark)
    if not ids:
        raise DataError(f"{table}: no photograph listed in it")
    _check_once(table, ids)
    root = table.parent / "train" if (table.parent / "train").is_dir() else table.parent
    there = _present(root, ids)
    lost = [image_id for image_id, found in zip(ids, there, strict=True) if not found]
    if len(lost) == len(ids):
        raise DataError(f"{table}: none of its {len(ids)} photographs is there; looked for {_place(root, ids[0])}")
    if lost and missing == "error":
        raise DataError(
            f"{table}: {len(lost)} of {len(ids)} photographs are not there: {named(lost)}; looked for "
            f'{_place(root, lost[0])}. Set missing = "drop" to go on with the others'
        )
    if lost:
        warnings.warn(
            f"{table}: {len(lost)} of {len(ids)} photographs are not there and left out: {named(lost)}",
            DelfEngineWarning,
            stacklevel=2,
        )
    return LabelledImages.group(
        root,
        [_inside(image_id) for image_id, found in zip(ids, there, strict=True) if found],
        [label for label, found in zip(labels, there, strict=True) if found],
    )


def _find_list(path: Path) -> Path:
    if path.suffix.lower() == ".csv":
        return path
    for name in _LISTS:
        if (path / name).is_file():
            return path / name
    raise DataError(f"{path}: neither {' nor '.join(_LISTS)} in it")


def _read_list(table: Path) -> Iterator[tuple[str, str]]:
    """Yield id and landmark of each photograph in either of the two kinds of list."""
    try:
        with _long_fields(), table.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines, strict=True)
            columns = set(rows.fieldnames or ())
            if {"landmark_id", "images"} <= columns:
                column = "images"
            elif {"id", "landmark_id"} <= columns:
                column = "id"
            else:
                raise FormatError(
                    f"{table}: expected the columns id,url,landmark_id or landmark_id,images, "
                    f"got {','.join(rows.fieldnames or ()) or 'an empty file'}"
                )
            for row in rows:
                yield from _photographs(table, rows.line_num, row["landmark_id"], row[column])
    except (csv.Error, UnicodeDecodeError) as error:
        raise FormatError(f"{table}: is not CSV in UTF-8: {error}") from error
    except OSError as error:
        raise FormatError(f"{table}: cannot be read: {error.strerror or error}") from error


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let a field of a CSV file be longer than 131,072 characters: some landmarks have that many ids."""
    before = csv.field_size_limit(1 << 26)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _photographs(table: Path, line: int, landmark: str | None, ids: str | None) -> Iterator[tuple[str, str]]:
    if not landmark or not landmark.strip() or ids is None or not ids.strip():
        raise FormatError(f"{table}, line {line}: a landmark_id and the id of a photograph are needed")
    for image_id in ids.split():
        if not _ID.fullmatch(image_id):
            raise FormatError(
                f"{table}, line {line}: {image_id!r} is no id: expected three or more letters, digits, '-' or '_'"
            )
        yield image_id, landmark.strip()


def _check_once(table: Path, ids: Sequence[str]) -> None:
    if len(set(ids)) == len(ids):
        return
    twice = [image_id for image_id, count in Counter(ids).items() if count > 1]
    raise DataError(f"{table}: {len(twice)} ids occur more than once: {named(sorted(twice))}")


def _present(root: Path, ids: Sequence[str]) -> list[bool]:
    """Say which photographs are there. Each folder is listed once: faster than asking for millions of files."""
    listed: dict[str, frozenset[str]] = {}
    there = []
    for image_id in ids:
        folder = os.path.join(*image_id[:3])
        if folder not in listed:
            try:
                listed[folder] = frozenset(os.listdir(root / folder))
            except OSError:
                listed[folder] = frozenset()
        there.append(f"{image_id}.jpg" in listed[folder])
    return there


def _inside(image_id: str) -> str:
    return os.path.join(*image_id[:3], f"{image_id}.jpg")


def _place(root: Path, image_id: str) -> str:
    return os.fspath(root / _inside(image_id))
