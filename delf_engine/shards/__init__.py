"""Collections past one machine: parts that any scheduler's workers make by their number, and one engine of them.

`plan` divides photographs, `making` extracts and indexes a part, `merging` joins parts, `reranking` verifies by
parts, `costs` says what it takes.
"""

from delf_engine.shards.costs import Figures, estimate_shards, measure_shards
from delf_engine.shards.making import extract_part, index_part
from delf_engine.shards.merging import merge_shards
from delf_engine.shards.parts import Part
from delf_engine.shards.plan import Plan, plan_shards
from delf_engine.shards.reranking import rerank_shards

__all__ = [
    "Figures",
    "Part",
    "Plan",
    "estimate_shards",
    "extract_part",
    "index_part",
    "measure_shards",
    "merge_shards",
    "plan_shards",
    "rerank_shards",
]
