"""Labelled photographs on disk: a folder of class folders, or the layout of Google Landmarks v2.

The latter (Weyand et al., CVPR 2020) is

=====================  =========================================================================================
``train.csv``          columns ``id,url,landmark_id``, one photograph a row
``train_clean.csv``    columns ``landmark_id,images``, one landmark a row, ``images`` its ids between blanks
``train/a/b/c/ID.jpg``  the photograph ``ID = abc...``; ``a/b/c/ID.jpg`` directly below the root is found too
=====================  =========================================================================================

Only names and labels are held; photographs are read when a batch is drawn.
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
from delf_engine.images import find_images, image_suffixes
from delf_engine.support.files import system_errors
from delf_engine.training.labelled import LabelledImages, named

_LISTS = ("train_clean.csv", "train.csv")
_ID = re.compile(r"[0-9A-Za-z_-]{3,}")  # also keeps "../" out of paths


def open_labelled(path: Path, *, missing: Literal["error", "drop"] = "error") -> LabelledImages:
    """List labelled photographs: of Google Landmarks v2 if its lists are there, else of a folder of class folders.

    Errors are those of `read_landmarks` and `read_class_folders`.
    """
    if _list_of(path) is not None:
        return read_landmarks(path, missing=missing)
    whole = path.resolve()
    if whole.name == "train" and _list_of(whole.parent) is not None:
        # Its folders 0 to f would pass for sixteen classes.
        raise DataError(
            f"{path}: the photographs of a Google Landmarks list; give the folder of the list, {whole.parent}"
        )
    return read_class_folders(path)


def read_class_folders(root: str | os.PathLike[str]) -> LabelledImages:
    """List the photographs of a folder of class folders, each searched recursively.

    Class folders without photographs, and photographs beside them, which have no class, are left out with a
    warning. A `DataError` if there is no such folder, no class folder in it, or no photograph in them.
    """
    root = Path(root)
    try:
        entries = sorted((e for e in os.scandir(root) if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise DataError(f"{root}: not a readable folder of class folders: {error.strerror or error}") from error
    folders = [entry.name for entry in entries if entry.is_dir()]
    others = [entry.name for entry in entries if not entry.is_dir()]
    beside = [name for name in others if Path(name).suffix.lower() in image_suffixes()]
    if not folders:
        raise DataError(
            f"{root}: no class folders in it"
            + (f", only {len(beside)} photographs without a class" if beside else "")
            + "; expected one folder for each class with its photographs inside"
        )
    files, labels, empty = [], [], []
    for name in folders:
        try:
            found = find_images([root / name])
        except DataError:
            empty.append(name)
            continue
        files += [os.path.relpath(path, root) for path in found]
        labels += [name] * len(found)
    if not files:
        raise DataError(f"{root}: no photograph in any of its {len(folders)} class folders ({named(folders)})")
    for names, what in ((empty, "class folders without a photograph"), (beside, "photographs beside the classes")):
        if names:
            warnings.warn(f"{root}: {len(names)} {what} left out: {named(names)}", DelfEngineWarning, stacklevel=2)
    return LabelledImages.group(root, files, labels)


def read_landmarks(path: str | os.PathLike[str], *, missing: Literal["error", "drop"] = "error") -> LabelledImages:
    """List the photographs of the Google Landmarks v2 layout.

    `path` is the folder, of which ``train_clean.csv`` is read if it is there and ``train.csv`` otherwise, or the
    CSV file itself, with the photographs beside it. Ids without a photograph, as where a part of the data set was
    downloaded, are `missing`: "error", or "drop", with a warning. A `FormatError`, which names the file and the
    line, if a file cannot be read, a column is missing, or a line is wrong; a `DataError` if ids occur twice,
    photographs are missing, or there are none.
    """
    table = _list_of(Path(path))
    if table is None:
        raise DataError(f"{path}: neither {' nor '.join(_LISTS)} in it")
    ids, labels = _read_list(table)
    if not ids:
        raise DataError(f"{table}: no photograph listed in it")
    twice = sorted(image_id for image_id, count in Counter(ids).items() if count > 1)
    if twice:
        raise DataError(f"{table}: {len(twice)} ids occur more than once: {named(twice)}")
    root = table.parent / "train" if (table.parent / "train").is_dir() else table.parent
    there = _present(root, ids)
    lost = [image_id for image_id, found in zip(ids, there, strict=True) if not found]
    if len(lost) == len(ids):
        raise DataError(
            f"{table}: none of its {len(ids)} photographs is there; looked for {root / _inside(ids[0])}"
        )
    if lost and missing == "error":
        raise DataError(
            f"{table}: {len(lost)} of {len(ids)} photographs are not there: {named(lost)}; looked for "
            f'{root / _inside(lost[0])}. Set missing = "drop" to go on with the others'
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


def _list_of(path: Path) -> Path | None:
    """Return the CSV file that `path` is, or that of a folder in the layout of Google Landmarks, if it is one."""
    if path.suffix.lower() == ".csv":
        return path
    return next((path / name for name in _LISTS if (path / name).is_file()), None)


def _read_list(table: Path) -> tuple[list[str], list[str]]:
    """Return id and landmark of each photograph in either of the two kinds of list."""
    ids, labels = [], []
    try:
        with (
            system_errors(f"{table}: cannot be read"),
            _long_fields(),
            table.open(encoding="utf-8-sig", newline="") as lines,
        ):
            rows = csv.DictReader(lines, strict=True)
            columns = rows.fieldnames or ()
            column = "images" if "images" in columns else "id"
            if not {"landmark_id", column} <= set(columns):
                raise FormatError(
                    f"{table}: expected the columns id,url,landmark_id or landmark_id,images, "
                    f"got {','.join(columns) or 'an empty file'}"
                )
            for row in rows:
                found = _ids(table, rows.line_num, row["landmark_id"], row[column])
                ids += found
                labels += [row["landmark_id"].strip()] * len(found)
    except (csv.Error, UnicodeDecodeError) as error:
        raise FormatError(f"{table}: is not CSV in UTF-8: {error}") from error
    return ids, labels


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let a field of a CSV file be longer than 131,072 characters: some landmarks have that many ids."""
    before = csv.field_size_limit(1 << 26)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _ids(table: Path, line: int, landmark: str | None, ids: str | None) -> list[str]:
    if not landmark or not landmark.strip() or ids is None or not ids.strip():
        raise FormatError(f"{table}, line {line}: a landmark_id and the id of a photograph are needed")
    for image_id in ids.split():
        if not _ID.fullmatch(image_id):
            raise FormatError(
                f"{table}, line {line}: {image_id!r} is no id: expected three or more letters, digits, '-' or '_'"
            )
    return ids.split()


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
