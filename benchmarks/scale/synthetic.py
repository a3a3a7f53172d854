"""A place whose parts of the index are synthetic: nothing is extracted, and few images stand for many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from benchmarks.index.synthetic import descriptors, postings
from delf_engine import AsmkIndex, Codebook
from delf_engine.shards import Plan, plan_shards
from delf_engine.shards.making import words_of
from delf_engine.shards.parts import Part, commit, working_folder
from delf_engine.shards.place import Place

WORDS = 65536
_DISTINCT = 5000  # images of a part at most; all others are these under other ids


def codebook() -> Codebook:
    """Return words like those of photographs."""
    return Codebook(descriptors(WORDS, np.random.default_rng(0)))


def index_of(book: Codebook, plan: Plan, images: int, words: int, seed: int) -> AsmkIndex:
    """Return an index of so many images of so many words each."""
    distinct = min(images, _DISTINCT)
    index = AsmkIndex(book, plan.engine.profile.asmk)
    # Words and codes as they are: descriptors would take a thousand times as long to make.
    made = postings(distinct, WORDS, words, seed)
    index._collection.add({f"{seed}/{row:05d}": item for row, item in enumerate(made)})
    return index.repeated(images // distinct)


def make_place(folder: Path, book: Codebook, parts: int, images: int, words: int) -> Plan:
    """Make a place with so many parts, each of so many images of so many words."""
    names = [f"https://example.org/{part}.jpg" for part in range(parts)]
    parquet.write_table(pa.table({"address": names, "bytes": [1] * parts}), folder.with_suffix(".parquet"))
    place, plan = Place(folder), plan_shards(folder.with_suffix(".parquet"), folder, part_bytes=1)
    made_by = {**plan.index_made_by(words_of(place, plan, book)), "features": ""}
    for part in range(parts):
        with working_folder(place, "index", part) as (path, name):
            index_of(book, plan, images, words, part).save(path)
            commit(place, path, Part("index", part, name, made_by, images, 0, 0.0, {}))
    return plan
