"""Sentences that stand in a benchmark's page and in its Markdown alike."""

from __future__ import annotations

from delf_engine.plotting.report.benchmark_result import Dataset
from delf_engine.plotting.report.evidence import counted

__all__ = ["QUOTED", "UNITS", "restriction"]

UNITS = (
    "All in per cent; in parentheses 95 % intervals. A query without a positive image in a set-up is left out of "
    "its mean. mP@k: mean precision among the first k."
)
QUOTED = "These figures are quoted from publications. They were not measured in this run, nor on this machine."


def restriction(dataset: Dataset) -> list[str]:
    """Return what a run on a part of the data has to say of it: first the sentence, then what is missing.

    Empty where nothing is missing.
    """
    if not dataset.restricted:
        return []
    images, queries = len(dataset.missing_images), len(dataset.missing_queries)
    what = [counted(images, "image")] if images else []
    what += [counted(queries, "query")] if queries else []
    were = "was" if images + queries == 1 else "were"
    return [
        f"Restricted protocol: {' and '.join(what)} of the data set {were} missing and left out. "
        "These figures cannot be compared with published ones.",
        *dataset.missing_queries,
        *dataset.missing_images,
    ]
