"""Which names are connected by pairs of them."""

from __future__ import annotations

from collections.abc import Iterable


def first_connected(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return for each name, in alphabetical order, the first that a chain of pairs connects it with, or itself.

    Every name of a pair must be among `names`.
    """
    from scipy.cluster.hierarchy import DisjointSet

    groups = DisjointSet(sorted(set(names)))
    for a, b in pairs:
        groups.merge(a, b)
    first: dict[str, str] = {}
    return {name: first.setdefault(groups[name], name) for name in groups}
