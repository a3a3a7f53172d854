"""What a search may return: some ids, all but some, or scores from a value on; and the best of what is left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from delf_engine.errors import UnknownIdError
from delf_engine.index.segments.collection import Collection


def allowed_rows(
    collection: Collection, among: Sequence[str] | None, exclude: Sequence[str]
) -> npt.NDArray[np.bool_] | None:
    """Return which rows of a flushed collection may be returned, (n,) bool through all segments; None: all.

    Those of `among`, None for any, but for those of `exclude`, which need not be there. An `UnknownIdError` if an
    id of `among` is not there: a search among images that are not there cannot be meant.
    """
    if among is None and not exclude:
        return None
    allowed = np.full(sum(len(segment.ids) for segment in collection.segments), among is None)
    if among is not None:
        rows = collection.rows(among)
        unknown = [among[int(i)] for i in np.flatnonzero(rows < 0)]
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise UnknownIdError(f"among: the index holds no image {unknown[0]!r}{more}")
        allowed[rows] = True
    rows = collection.rows(exclude)
    allowed[rows[rows >= 0]] = False
    return allowed


def best(
    scores: npt.NDArray[np.float32],
    top_k: int,
    *,
    allowed: npt.NDArray[np.bool_] | None = None,
    min_score: float | None = None,
) -> npt.NDArray[np.int64]:
    """Return where the at most `top_k` highest positive scores are, (K,) int64, descending, ties by position.

    `allowed`, (N,) bool, says where to look; None: everywhere. Scores below `min_score` are left out, compared in
    float64, where a score is the value that it shows.
    """
    from delf_engine.index.segments.best_kernels import best_rows

    everywhere = np.ones(0, bool) if allowed is None else allowed
    rows = best_rows(scores, min(top_k, len(scores)), everywhere, 0.0 if min_score is None else min_score)
    return rows[np.argsort(-scores[rows], kind="stable")]
