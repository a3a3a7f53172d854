"""Who is searched for among whom: sets of pictures with labelled pairs, as retrieval benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.verification.evidence import Evidence, Picture
from benchmarks.verification.sameness_sets import PairSet, paris_truth
from delf_engine import AsmkIndex, Codebook
from delf_engine.evaluation import GroundTruth
from delf_engine.images import find_images

__all__ = ["Lists", "SearchedSet", "searched_set", "truth_of", "whole_rankings"]

#: By query, images and their scores, best first.
Lists = Mapping[str, Sequence[tuple[str, float]]]


@dataclass(frozen=True)
class SearchedSet:
    """A ground truth by ids of pictures, and these by id."""

    name: str
    truth: GroundTruth
    pictures: Mapping[str, Picture]


def searched_set(data: Path, pairs: PairSet, *, distractors: bool = True) -> SearchedSet:
    """Return how the pictures of a set are searched for among each other, and among all distractors.

    ``paris`` has the official lists of its images, easy and hard; the others have `truth_of` their pairs.
    """
    more = [
        Picture(Path(path).relative_to(data).as_posix())
        for path in (find_images([data / "distractors"]) if distractors else ())
    ]
    pictures = {**pairs.pictures, **{picture.id: picture for picture in more}}
    if pairs.name == "paris":
        truth, _ = paris_truth(data)
        truth = replace(truth, names=(*truth.names, *(picture.id for picture in more)))
    else:
        truth = truth_of(replace(pairs, pictures=pictures))
    return SearchedSet(pairs.name, truth, pictures)


def whole_rankings(evidence: Evidence, searched: SearchedSet, codebook: Path) -> tuple[AsmkIndex, Lists]:
    """Return an index of the gallery by ASMK, and all of its images for each query but the query itself."""
    evidence.pictures.update(searched.pictures)
    features = evidence.coarse(searched.pictures)
    index = AsmkIndex(Codebook.load(codebook), evidence.system.profile.asmk)
    index.add(list(searched.truth.names), [features[image] for image in searched.truth.names])
    lists = {}
    for query in searched.truth.query_names:
        ids, scores = index.search(features[query], len(index))
        lists[query] = [pair for pair in zip(ids, scores.tolist(), strict=True) if pair[0] != query]
    return index, lists


def truth_of(pairs: PairSet) -> GroundTruth:
    """Return the ground truth of searching for the pictures of a set among the others.

    Positives are pairs of one place, negatives those of different ones and all distractors; other pairs are left
    out. Queries are the pictures that are cut out, or the first ones of their groups (``holidays_dev``), or all
    that have a positive. Queries that are not cut out are left out of their own gallery only, but for
    ``holidays_dev``, whose queries are left out of all.
    """
    cut = [image for image, picture in pairs.pictures.items() if picture.box is not None]
    firsts = [
        image for image in pairs.pictures if image.startswith("holidays_dev/") and Path(image).stem.endswith("00")
    ]
    names = [image for image in pairs.pictures if image not in {*cut, *firsts}]
    place = {image: number for number, image in enumerate(names)}
    positives: dict[str, set[int]] = {}
    known: dict[str, set[int]] = {}
    for (a, b), same in zip(pairs.pairs, pairs.labels, strict=True):
        for query, image in ((a, b), (b, a)):
            if image in place:
                known.setdefault(query, set()).add(place[image])
                if same:
                    positives.setdefault(query, set()).add(place[image])
    queries = [query for query in (cut or firsts or names) if positives.get(query)]
    others = {number for image, number in place.items() if image.startswith("distractors/")}
    everything = set(place.values())
    junk = [sorted(everything - others - known[query]) for query in queries]  # the query itself is among them
    nothing = tuple(np.zeros(0, np.int64) for _ in queries)
    return GroundTruth(
        tuple(names),
        tuple(queries),
        np.tile([0.0, 0.0, 1.0, 1.0], (len(queries), 1)),
        tuple(np.array(sorted(positives[query]), np.int64) for query in queries),
        nothing,
        tuple(np.array(each, np.int64) for each in junk),
    )
