"""Local-feature matching for landmarks: do these photographs show the same place.

Names are imported on first use, so that ``import delf_engine`` stays fast and torch is loaded only by what
needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from delf_engine.config import Profile, load_profile
    from delf_engine.copies import find_copies
    from delf_engine.engine import AddReport, Engine, SearchResult, rerank, rerank_many, verify
    from delf_engine.errors import DelfEngineError
    from delf_engine.extraction import Extractor
    from delf_engine.features import LocalFeatures
    from delf_engine.index import AsmkIndex, Codebook, KdTreeIndex
    from delf_engine.reranking import RankedCandidate
    from delf_engine.storage import FeatureStore
    from delf_engine.verification import Verification, verify_features

__version__ = "0.1.0"

__all__ = [
    "AddReport",
    "AsmkIndex",
    "Codebook",
    "DelfEngineError",
    "Engine",
    "Extractor",
    "FeatureStore",
    "KdTreeIndex",
    "LocalFeatures",
    "Profile",
    "RankedCandidate",
    "SearchResult",
    "Verification",
    "__version__",
    "find_copies",
    "load_profile",
    "rerank",
    "rerank_many",
    "verify",
    "verify_features",
]

_HOME = {
    "AddReport": "delf_engine.engine",
    "AsmkIndex": "delf_engine.index",
    "Codebook": "delf_engine.index",
    "DelfEngineError": "delf_engine.errors",
    "Engine": "delf_engine.engine",
    "Extractor": "delf_engine.extraction",
    "FeatureStore": "delf_engine.storage",
    "KdTreeIndex": "delf_engine.index",
    "LocalFeatures": "delf_engine.features",
    "Profile": "delf_engine.config",
    "RankedCandidate": "delf_engine.reranking",
    "SearchResult": "delf_engine.engine",
    "Verification": "delf_engine.verification",
    "find_copies": "delf_engine.copies",
    "load_profile": "delf_engine.config",
    "rerank": "delf_engine.engine",
    "rerank_many": "delf_engine.engine",
    "verify": "delf_engine.engine",
    "verify_features": "delf_engine.verification",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
