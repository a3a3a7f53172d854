"""A place whose parts of the index are synthetic: nothing is extracted, and few images stand for many."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.index.synthetic import descriptors, postings
from delf_engine import AsmkIndex, Codebook
from delf_engine.shards import Plan, plan_shards
from delf_engine.shards.making import words_of
from delf_engine.shards.parts import Part, commit, working_folder
from delf_engine.shards.place import Place

_WORDS, _DISTINCT = 65536, 5000  # images of a part at most; all others are these under other ids


def codebook() -> Codebook:
    """Return words like those of photographs."""
    return Codebook(descriptors(_WORDS, np.random.default_rng(0)))


def index_of(book: Codebook, plan: Plan, images: int, words: int, seed: int) -> AsmkIndex:
    """Return an index of so many images of so many words each: codes are random."""
    distinct, index = min(images, _DISTINCT), AsmkIndex(book, plan.engine.profile.asmk)
    made = postings(distinct, _WORDS, words, seed)
    index._collection.add({f"{seed}/{row:05d}": item for row, item in enumerate(made)})
    return index.repeated(images // distinct)


def make_place(folder: Path, book: Codebook, parts: int, images: int, words: int) -> Plan:
    """Make a place with so many parts, each of so many images of so many words."""
    photographs, place = folder.with_name("photographs-of-nothing"), Place(folder)
    photographs.mkdir(parents=True)
    for part in range(parts):
        (photographs / f"{part}.jpg").write_bytes(b"-")
    plan = plan_shards(photographs, folder, part_bytes=1)
    made_by = {**plan.index_made_by(words_of(place, plan, book)), "features": ""}
    for part in range(parts):
        with working_folder(place, "index", part) as (path, name):
            index_of(book, plan, images, words, part).save(path)
            commit(place, path, Part("index", part, name, made_by, images, 0, 0.0, {}))
    return plan
