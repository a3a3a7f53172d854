"""A folder of classes as a benchmark: an image should find the other images of its class.

``folder/CLASS/photo.jpg``: the first folder below is the class. Each image is a query and is taken out of its own
ranking, or the queries are a folder of their own. All figures are in per cent.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from delf_engine.errors import DataError
from delf_engine.evaluation.figures import Evaluation
from delf_engine.evaluation.rankings import Gallery, Indices, Rankings, check_complete, in_query_order
from delf_engine.images import find_images

_RANKS = (1, 5, 10)  # of recall@k and of the mean precision mP@k


@dataclass(frozen=True, eq=False)
class ClassTruth:
    """Classes of the images of a gallery and of queries, as `class_truth_of_folder` finds them."""

    names: tuple[str, ...]  # of the gallery's images, in the order that indices refer to
    classes: tuple[str, ...]
    query_names: tuple[str, ...]
    query_classes: tuple[str, ...]
    query_images: Indices  # that each query is itself, taken out of its ranking; -1 for none

    def positives_of(self) -> tuple[Indices, ...]:
        """Return the indices of the images that each query should find: of its class, without itself."""
        labels = np.array(self.classes, dtype=object)
        members = {name: np.flatnonzero(labels == name) for name in set(self.query_classes)}
        return tuple(
            members[name][members[name] != image]
            for name, image in zip(self.query_classes, self.query_images, strict=True)
        )


def class_truth_of_folder(
    folder: str | os.PathLike[str],
    *,
    queries: str | os.PathLike[str] | None = None,
    paths: bool = False,
) -> ClassTruth:
    """Return the ground truth that the names of folders give: one for each class, images may lie deeper inside.

    `queries` is a folder of the same kind; none of its images is one of the gallery. Without, every image of the
    gallery is a query and is taken out of its own ranking. With `paths` images are named by their whole path, as
    ``delf-engine add FOLDER`` does, and not ``CLASS/photo.jpg``. A `DataError` if a folder does not exist, holds
    no image, or an image in no class.
    """
    names, classes = _listed(Path(folder), paths)
    if queries is None:
        return ClassTruth(names, classes, names, classes, np.arange(len(names)))
    query_names, query_classes = _listed(Path(queries), paths)
    return ClassTruth(names, classes, query_names, query_classes, np.full(len(query_names), -1))


def evaluate_classes(rankings: Rankings, truth: ClassTruth) -> Evaluation:
    """Measure rankings by the classes of their images: average precision, recall and precision at 1, 5 and 10.

    The average precision is the mean, over all positives, of the precision at the rank of each, 0 for one that is
    not in the ranking; it is not the trapezoidal area of the revisited benchmarks. Rankings are those that
    `evaluate_setups` takes, with the same errors; the query's own image may be in its ranking or not.
    """
    positives = truth.positives_of()
    ap = np.full(len(positives), math.nan)
    recall, precision = (np.full((len(positives), len(_RANKS)), math.nan) for _ in range(2))
    gallery = Gallery(truth.names)
    ordered = in_query_order(rankings, truth.query_names)
    for q, ranking in enumerate(ordered):
        own = truth.query_images[q : q + 1]
        lists = [positives[q], own[own >= 0]]
        places, labels = gallery.labelled(ranking, lists, f"ranking of query {truth.query_names[q]}")
        if len(positives[q]) == 0:
            continue
        found = (places + 1 - np.cumsum(labels == 2))[labels == 1]  # ranks, from 1
        ap[q] = 100 * math.fsum((np.arange(1, len(found) + 1) / found).tolist()) / len(positives[q])
        for i, k in enumerate(_RANKS):
            hits = int((found <= k).sum())
            recall[q, i], precision[q, i] = 100 * min(hits, 1), 100 * hits / k
    check_complete(ordered, len(truth.names))
    counts = np.array([len(each) for each in positives], np.int64)
    return Evaluation("all", truth.query_names, counts, ap, _RANKS, precision, recall)


def _listed(folder: Path, paths: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names, classes = [], []
    for image in find_images([folder]):
        inside = Path(image).relative_to(folder)
        if len(inside.parts) < 2:
            raise DataError(f"{image}: lies in no folder of a class; {folder}/CLASS/{inside} was expected")
        names.append(image if paths else inside.as_posix())
        classes.append(inside.parts[0])
    return tuple(names), tuple(classes)
