"""All of it behind one directory: add, remove, search, re-rank, verify."""

from delf_engine.engine.engine import Engine
from delf_engine.engine.manifest import Manifest
from delf_engine.engine.on_demand import rerank
from delf_engine.engine.pairs import rerank_many, verify
from delf_engine.engine.reading import EngineReader
from delf_engine.engine.results import AddReport, CheckReport, EngineInfo, RerankedBatch, SearchResult

__all__ = [
    "AddReport",
    "CheckReport",
    "Engine",
    "EngineInfo",
    "EngineReader",
    "Manifest",
    "RerankedBatch",
    "SearchResult",
    "rerank",
    "rerank_many",
    "verify",
]
