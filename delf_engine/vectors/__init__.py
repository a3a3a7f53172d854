"""Global vectors of anyone, one an image: whitening, codes, and better rankings without geometry.

Everything takes (N, D) arrays of numbers and compares vectors by their cosine: lengths do not matter, and a vector
of zeros is like no other. The same vectors give the same bits with any number of threads; of equal results the
lower index comes first.

Every function raises `FeatureError` for vectors that are not finite numbers of that shape, `MismatchError` for
dimensions, codes or indices that do not go together, and `ConfigError` for an option out of range.
"""

from __future__ import annotations

from delf_engine.vectors.codes import hamming_then_exact, itq, sign_codes
from delf_engine.vectors.diffusion import DiffusionGraph
from delf_engine.vectors.expansion import augment_database, expand_queries
from delf_engine.vectors.neighbors import nearest_neighbors
from delf_engine.vectors.reciprocal import ReciprocalGraph
from delf_engine.vectors.regions import region_scores
from delf_engine.vectors.whitening import Whitening, learned_whitening, pca_whitening

__all__ = [
    "DiffusionGraph",
    "ReciprocalGraph",
    "Whitening",
    "augment_database",
    "expand_queries",
    "hamming_then_exact",
    "itq",
    "learned_whitening",
    "nearest_neighbors",
    "pca_whitening",
    "region_scores",
    "sign_codes",
]
