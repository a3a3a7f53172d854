"""Options of the indexes of single descriptors: KD-trees, and an inverted file of cells."""

from __future__ import annotations

from typing import Literal

from delf_engine.config.base import Config, Count

__all__ = ["IvfConfig", "KdTreeConfig"]


class KdTreeConfig(Config):
    """Options of the KD-tree index.

    Attributes
    ----------
    trees : int
        Randomised trees built over all descriptors (FLANN; Muja and Lowe 2009).
    checks : int
        Leaves of them visited for each query descriptor: more is more exact and slower.
    neighbours : int
        Nearest descriptors taken for each query descriptor (60 in DELF, ICCV 2017).
    search : "auto", "exact" or "randomised"
        ``exact``: the nearest descriptors by one KD-tree that is searched to the end (SciPy). ``randomised``: most
        of them, by the randomised trees. ``auto``: exact below `exact_below` descriptors. Where nothing is said
        it is randomised, as it was before it could be chosen. Fewer than 8 times `neighbours` descriptors are
        always searched exactly.
    exact_below : int
        Descriptors of the collection from which on ``auto`` takes the randomised trees.
    """

    trees: Count
    checks: Count
    neighbours: Count
    search: Literal["auto", "exact", "randomised"] = "randomised"
    exact_below: Count = 5000


class IvfConfig(Config):
    """Options of the two-level index of single descriptors: cells of a codebook, scanned one by one.

    Attributes
    ----------
    codec : "uint8" or "pq"
        What is scanned in a cell: the descriptors in D bytes, or their codes of product quantisation (50 bits in
        DELF, ICCV 2017), after which the best are compared again by their D bytes.
    probes : int
        Nearest cells visited by each query descriptor: more is more exact and slower. What each costs and finds is
        printed by ``benchmarks/index/kdtree.py``; time grows with the descriptors in these cells.
    neighbours : int
        Nearest descriptors taken for each query descriptor (60 in DELF).
    rescored : int
        With ``pq``, so many times `neighbours` descriptors of the nearest codes are compared again.
    assignment : "exact" or "fast"
        How nearest cells are found, see `Codebook.assign`.
    """

    codec: Literal["uint8", "pq"] = "uint8"
    probes: Count = 64
    neighbours: Count = 60
    rescored: Count = 4
    assignment: Literal["exact", "fast"] = "fast"
