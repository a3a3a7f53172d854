"""What is verified in each set-up of the revisited protocol: shortlists without the images it takes out.

A re-ranking by geometric verification looks at the first candidates only, 100 in the published pipelines. The
images that a set-up takes out of the ranking would fill some of those places for nothing, so that the published
pipelines take them out before the cut; each set-up then verifies candidates of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

from delf_engine.errors import ConfigError, DataError
from delf_engine.evaluation.ground_truth import GroundTruth, Setup
from delf_engine.evaluation.names import unknown_hint
from delf_engine.evaluation.rankings import in_query_order

__all__ = ["JunkRule", "candidates_to_verify", "setup_shortlists"]

#: When the images that a set-up takes out lose their places, see `setup_shortlists`.
JunkRule: TypeAlias = Literal["before", "after"]

_Entry = TypeVar("_Entry", str, tuple[str, float])


def setup_shortlists(
    candidates: Mapping[str, Sequence[_Entry]],
    ground_truth: GroundTruth,
    *,
    setup: Setup,
    top_n: int | None = 100,
    junk: JunkRule = "before",
) -> dict[str, list[_Entry]]:
    """Return the candidates of each query that are verified in a set-up, in their order.

    Parameters
    ----------
    candidates : mapping of query name to sequence of ids or of (id, score)
        Best first, as long as the search gave them: what moves up when junk is taken out must be there.
    ground_truth : GroundTruth
        Its queries are those of `candidates`.
    setup : "easy", "medium" or "hard"
    top_n : int or None
        Candidates verified for a query. None: no cut; a re-ranker that is given the whole list makes it.
    junk : "before" or "after"
        "before": images that `setup` takes out are removed, then the list is cut: `top_n` images that count are
        verified. The published pipelines do this. "after": the list is cut first, and what is taken out stays in
        it, verified for nothing: all set-ups verify the same pairs, and fewer images that count can move up. Such
        a system could be run without knowing the ground truth. `evaluate` takes the junk out in any case.

    Returns
    -------
    dict of query name to list of id or of (id, score)
        In the order of the ground truth's queries.

    Raises
    ------
    DataError
        If there is not one list a query, or a list holds an unknown or doubled image, or a score that is NaN.
    ConfigError
        If there is no such set-up or rule, or `top_n` is below 1.
    """
    if junk not in ("before", "after"):
        raise ConfigError(f"junk is taken out 'before' or 'after' the cut, got {junk!r}")
    if top_n is not None and top_n < 1:
        raise ConfigError(f"top_n must be at least 1, or None, got {top_n}")
    taken_out = ground_truth.junk_of(setup)
    known = set(ground_truth.names)
    out = {}
    lists = in_query_order(candidates, ground_truth.query_names)
    for query, found, images in zip(ground_truth.query_names, lists, taken_out, strict=True):
        _check(found, known, f"candidates of query {query}")
        left = set() if junk == "after" else {ground_truth.names[i] for i in images}
        out[query] = [entry for entry in found if _id(entry) not in left][:top_n]
    return out


def candidates_to_verify(shortlists: Sequence[Mapping[str, Sequence[_Entry]]]) -> dict[str, list[_Entry]]:
    """Return the candidates of each query that are in any of some shortlists, each once.

    A pair verified for one set-up need not be verified again for another.

    Parameters
    ----------
    shortlists : sequence of mappings of query name to sequence of ids or of (id, score)
        Such as those of `setup_shortlists` for Easy, Medium and Hard.

    Returns
    -------
    dict of query name to list of id or of (id, score)
        In order of first appearance, list after list.
    """
    out: dict[str, dict[str, _Entry]] = {}
    for lists in shortlists:
        for query, found in lists.items():
            of_query = out.setdefault(query, {})
            for entry in found:
                of_query.setdefault(_id(entry), entry)
    return {query: list(found.values()) for query, found in out.items()}


def _id(entry: Any) -> str:
    return entry if isinstance(entry, str) else str(entry[0])


def _check(found: Sequence[Any], known: set[str], what: str) -> None:
    ids = [_checked_id(entry, what) for entry in found]
    unknown = [image_id for image_id in ids if image_id not in known]
    if unknown:
        hint = unknown_hint(len(unknown), len(ids), len(known))
        raise DataError(f"{what}: {unknown[0]!r} is no image of the gallery{hint}")
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        doubled = next(i for i in ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
        raise DataError(f"{what}: {doubled!r} stands in them {ids.count(doubled)} times")


def _checked_id(entry: Any, what: str) -> str:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, (tuple, list)) and len(entry) == 2 and isinstance(entry[0], str):
        try:
            if not math.isnan(entry[1]):
                return entry[0]
        except TypeError:  # no number
            pass
    raise DataError(f"{what}: expected an id or (id, score), a number, got {entry!r}")
