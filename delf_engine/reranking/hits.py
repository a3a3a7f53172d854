"""The hits of other systems, as they return them, as one list of candidates.

Nothing here imports a client. What an answer is made of is told by the names of its keys, attributes and methods:
those of FAISS, usearch, hnswlib (arrays), Qdrant, Milvus, Weaviate, Elasticsearch, OpenSearch (objects or JSON),
LanceDB (lists, pandas, Arrow, Polars), PostgreSQL's drivers (rows), clip-retrieval. Tables hold these names.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import numpy as np

from delf_engine.errors import ConfigError, DataError

#: An id, a path or the bytes of an image file, alone or with its score (higher is better).
Hit: TypeAlias = str | bytes | tuple[str | bytes, float]
#: What ids or row numbers stand for: a list by row, a mapping, or a function.
Names: TypeAlias = Sequence[Any] | Mapping[Any, Any] | Callable[[Any], Any]

# Methods of tables that return their rows: Arrow, Polars, queries of LanceDB that are still to be run.
_ROWS = ("to_pylist", "to_dicts", "to_list")
# Where an answer keeps its hits: Elasticsearch (hits.hits), Qdrant (result.points), Weaviate (data.Get.CLASS) ...
_INSIDE = ("hits", "points", "objects", "result", "data", "Get", "body")
# Where a hit keeps what was stored with the vector, and where what the search says of it.
_STORED = ("payload", "entity", "properties", "_source", "fields")
_ABOUT = ("metadata", "_additional")
# What names the image, best first. An address is taken only so that it is refused as what it is.
_IMAGES = ("path", "image_path", "file_path", "filepath", "filename", "file_name", "file", "image", "uri", "url")
_IDS = ("id", "_id", "uuid", "pk", "key")
# What ranks the hits, best first, and whether it is a distance; None: the metric of the collection decides.
_SCORES: dict[str, bool | None] = {
    "_relevance_score": False,
    "rerank_score": False,
    "_distance": True,
    "distance": None,
    "_score": False,
    "similarity": False,
    "certainty": False,
    "score": None,
}


class _Found(NamedTuple):
    image: str | bytes
    score: float | None
    is_distance: bool | None


def read_hits(
    hits: Any, *, names: Names | None = None, field: str | None = None, distances: bool | None = None
) -> list[Hit]:
    """Return the hits of one query, in the order of the system that found them.

    The order is what counts: a score that turns out to be a distance (it rises) gets the opposite sign. Hits that
    are in no order are sorted where it is known what is better.

    Parameters
    ----------
    hits : object
        What the system has returned for one query: arrays of FAISS ``(D, I)``, usearch and hnswlib; answers of
        Qdrant, Milvus, Weaviate, Elasticsearch and OpenSearch, as objects or JSON; lists of dictionaries, data
        frames and Arrow tables of LanceDB; rows of two columns, or of named ones; dictionaries of clip-retrieval;
        a list of paths, ids, bytes, or of pairs of one with its score; ``{id: score}``, highest first.
    names : sequence, mapping or function, optional
        What row numbers and ids stand for: ids, paths or bytes. Without, a hit is named by what was stored under
        "path", "file", "image" and the like, or else by its id, which must be a string.
    field : str or None
        The field or column that names the image, or holds the bytes of its file.
    distances : bool or None
        Whether lower scores are better. None: by the name of the score, where that is sure, or by the order.

    Returns
    -------
    list of str or bytes, or of (str or bytes, float)
        Best first, higher scores better. What stands in the place of a missing result (-1 of FAISS) is left out.

    Raises
    ------
    DataError
        If the system has answered an error, or there are hits of several queries; if a hit has no name, one that
        is not among `names`, or no finite score; or if hits are in no order, and nothing says which is best.
    ConfigError
        If hits are numbers, and there are no `names`.
    """
    scored_ids = isinstance(hits, Mapping) and all(map(_is_number, hits.values()))
    rows = list(hits.items()) if scored_ids else _rows(hits)
    found = [_found(row, place, names, field) for place, row in enumerate(rows, start=1)]
    scores = [one.score for one in found if one.score is not None]
    if len(scores) < len(found) or not found:  # none has a score, or it means nothing
        return [one.image for one in found]
    if distances is None:
        distances = False if scored_ids else _are_distances(scores, found[0].is_distance)
    signed = [0.0 - score if distances else score for score in scores]
    return [(found[k].image, signed[k]) for k in sorted(range(len(signed)), key=lambda k: -signed[k])]  # stable


def _are_distances(scores: Sequence[float], named: bool | None) -> bool:
    """Tell whether lower is better, by the name of the scores or by their order."""
    if named is not None:
        return named
    rising, falling = (all(a <= b for a, b in pairwise(s)) for s in (scores, scores[::-1]))
    if not rising and not falling:
        raise DataError(
            "hits are not in order of their scores, which may be similarities or distances; sort them, or say "
            "distances=True or distances=False"
        )
    return rising and not falling


# ------------------------------------------------------------------------------------------- the list in an answer


def _rows(answer: Any) -> list[Any]:
    """Return the hits of an answer, one by one."""
    arrays = _arrays(answer)
    if arrays is not None:
        return _results(*arrays)
    for name in _ROWS:
        if hasattr(answer, name):
            return _rows(getattr(answer, name)())
    if hasattr(answer, "iterrows"):  # pandas
        return _rows(answer.to_dict("records"))
    if hasattr(answer, "tolist"):
        return _rows(answer.tolist())
    if isinstance(answer, (str, bytes)) or answer is None:
        raise DataError(f"hits must be a list or what a search has returned, got {type(answer).__name__}")
    if isinstance(answer, Iterable) and not isinstance(answer, Mapping) and not _has_inside(answer):
        return _of_one_query(list(answer))
    return _rows(_inside(answer))


def _has_inside(answer: Any) -> bool:
    return not isinstance(answer, (list, tuple)) and any(_get(answer, name) is not None for name in _INSIDE)


def _inside(answer: Any) -> Any:
    """Return what lies one level deeper in an object or JSON, on the way to the hits."""
    status, code = _get(answer, "status"), _get(answer, "code")
    problems = [_get(answer, "error"), _get(answer, "errors"), _get(status, "error")]
    problems += [_get(answer, "message")] if code else []
    if any(problems):
        raise DataError(f"the hits are an error that the database has answered: {next(filter(None, problems))}")
    for name in _INSIDE:
        if (found := _get(answer, name)) is not None:
            return found
    if isinstance(answer, Mapping) and len(answer) == 1:  # the class of a Weaviate query
        return next(iter(answer.values()))
    keys = f" with {', '.join(map(str, answer))}" if isinstance(answer, Mapping) else ""
    raise DataError(f"no list of hits in {type(answer).__name__}{keys}; give the list itself")


def _of_one_query(rows: list[Any]) -> list[Any]:
    """Return rows, which Milvus and batch searches wrap in a list with one entry a query."""
    nested = [isinstance(row, list) and (not row or not _is_scalar(row[0])) for row in rows]
    if rows and all(nested):
        if len(rows) > 1:
            raise DataError(f"these are the hits of {len(rows)} queries; give those of one, such as hits[0]")
        return list(rows[0])
    return rows


def _arrays(answer: Any) -> tuple[Any, Any] | None:
    """Return ids and scores that are arrays, or None."""
    if isinstance(answer, (list, tuple)) and len(answer) == 2 and all(getattr(a, "shape", ()) for a in answer):
        first, second = (np.asarray(a) for a in answer)
        # FAISS returns (scores, rows), hnswlib (labels, distances). Distances of FAISS's binary indexes are whole.
        turned = first.dtype.kind == "f" or second.dtype.kind != "f"
        return (second, first) if turned else (first, second)
    if hasattr(getattr(answer, "keys", None), "shape") and hasattr(answer, "distances"):  # usearch
        return answer.keys, answer.distances
    return None


def _results(ids: Any, scores: Any) -> list[Any]:
    """Return the (id, score) of arrays of shape (K,) or (1, K), without what is no result."""
    ids, scores = np.asarray(ids), np.asarray(scores)
    if ids.shape != scores.shape or ids.ndim not in (1, 2) or ids.dtype.kind == "f":
        raise DataError(
            f"expected row numbers or ids and scores of one shape, got {ids.dtype} {ids.shape} and "
            f"{scores.dtype} {scores.shape}"
        )
    if ids.ndim == 2 and len(ids) != 1:
        raise DataError(
            f"these are the hits of {len(ids)} queries; give those of one, such as (D[:1], I[:1]), or "
            "shortlists_from_arrays(I, D, ...) to rerank_many"
        )
    ids, scores = ids.reshape(-1), scores.reshape(-1)
    kept = ids != -1 if ids.dtype.kind == "i" else np.ones(len(ids), bool)
    return list(zip(ids[kept].tolist(), scores[kept].tolist(), strict=True))


# ----------------------------------------------------------------------------------------------------- one hit


def _found(row: Any, place: int, names: Names | None, field: str | None) -> _Found:
    if _is_scalar(row):
        return _Found(_named(row, place, names), None, None)
    if isinstance(row, (tuple, list)) and not hasattr(row, "_fields") and not hasattr(row, "_mapping"):
        if len(row) != 2 or not _is_scalar(row[0]):
            raise DataError(
                f"hit {place} has {len(row)} columns without names, expected an id or path and its score: {row!r}"
            )
        return _Found(_named(row[0], place, names), _score(row[1], place), None)
    record = _record(row)
    stored = {k: v for name in _STORED for k, v in _record(record.get(name)).items()}
    about = dict(record)
    about |= {k: v for name in _ABOUT for k, v in _record(record.get(name)).items() if v is not None}
    scored = next((name for name in _SCORES if _is_number(about.get(name))), None)
    # Milvus calls any score so; Weaviate keeps it apart, and means it.
    is_distance = True if scored == "distance" and scored not in record else _SCORES.get(scored or "")
    image = _image({**record, **stored}, field, by_id=names is not None)
    if image is None:
        keys = ", ".join(map(str, {**record, **stored}))
        where = f" in {field!r}" if field else ""
        raise DataError(f"hit {place} names no image{where}, only {keys or 'nothing'}: say with field= which does")
    score = None if scored is None else _score(about[scored], place)
    return _Found(_named(image, place, names), score, is_distance)


def _image(fields: Mapping[str, Any], field: str | None, *, by_id: bool) -> Any:
    """Return what names the image of a hit, or None."""
    for name in (field,) if field else _IDS if by_id else (*_IMAGES, *_IDS):
        value = fields.get(name)
        if isinstance(value, list) and len(value) == 1:  # the "fields" of Elasticsearch
            value = value[0]
        if _is_scalar(value):
            return value
    return None


def _record(row: Any) -> Mapping[str, Any]:
    """Return the fields of a hit by name, whatever kind of object it is."""
    if row is None or isinstance(row, Mapping):
        return row or {}
    if hasattr(row, "_mapping"):  # SQLAlchemy
        return dict(row._mapping)
    if hasattr(row, "_asdict"):  # named tuples
        return dict(row._asdict())
    if hasattr(row, "keys") and hasattr(row, "__getitem__"):  # asyncpg, sqlite3
        return {name: row[name] for name in row.keys()}  # noqa: SIM118 - no mapping
    known = (*_STORED, *_ABOUT, *_IMAGES, *_IDS, *_SCORES)
    return {name: value for name in known if (value := getattr(row, name, None)) is not None}


def _named(value: Any, place: int, names: Names | None) -> str | bytes:
    """Return the id, path or bytes that a hit stands for."""
    if names is not None:
        value = _looked_up(value, place, names)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    if isinstance(value, UUID):
        return str(value)
    if names is not None:
        raise DataError(f"hit {place}: names must give ids, paths or bytes, got {type(value).__name__}")
    raise ConfigError(f"hit {place} is the number {value}: say with names= which image each stands for")


def _looked_up(value: Any, place: int, names: Names) -> Any:
    if callable(names):
        return names(value)
    if isinstance(names, Mapping):
        for key in (value, str(value)):
            if key in names:
                return names[key]
    elif isinstance(value, str):
        return value
    elif not isinstance(value, (bytes, UUID, os.PathLike)) and 0 <= value < len(names):
        return names[int(value)]
    raise DataError(f"hit {place}: {value!r} is not one of the {len(names)} names")


def _get(answer: Any, name: str) -> Any:
    return answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name, None)


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, (str, bytes, bool)) and not np.ndim(value)


def _is_scalar(value: Any) -> bool:
    """Tell whether a value names an image by itself: an id, a path, a row number or bytes."""
    whole = hasattr(value, "__index__") and not isinstance(value, bool)
    return whole or isinstance(value, (str, bytes, bytearray, memoryview, os.PathLike, UUID))


def _score(value: Any, place: int) -> float | None:
    score = float(value) if _is_number(value) else math.nan if value is not None else None
    if score is not None and not math.isfinite(score):
        raise DataError(f"hit {place}: expected a finite score, got {value!r}")
    return score
