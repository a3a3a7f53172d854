"""What is measured on photographs that were not trained on: retrieval of views, and match precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from delf_engine.evaluation import GroundTruth, evaluate
from delf_engine.training.batches import Batch, Step
from delf_engine.training.correspondence import directions
from delf_engine.training.losses.match import MatchOptions, labelled_cells
from delf_engine.training.sources.views import draw_rows, gather_pairs
from delf_engine.training.stores import ViewStore

ToStep = Callable[[Batch, int], Step]
Scores = Callable[[Tensor], Tensor]

_BEST = 100  # cells of a view that retrieval looks at
_BATCHES, _PAIRS = 8, 24  # of match precision


def retrieval_map(store: ViewStore, to_step: ToStep, scores: Scores) -> float:
    """Mean average precision, in per cent, of finding the other views of a photograph among the views of all.

    Query: the first view of each photograph that was held out; gallery: all views but the query. Ranked by the sum
    of similarity^3 over mutual nearest neighbours among the 100 best cells. The trapezoidal rule of the revisited
    protocol. `scores` maps (V, C, h, w) features to (V, h, w) scores.
    """
    with torch.no_grad():
        views = torch.cat(
            [
                best_descriptors(to_step(Batch(store.maps(row), store.items.size), index), scores)
                for index, row in enumerate(store.rows.tolist())
            ]
        )
    count = store.items.views
    queries = range(0, len(views), count)
    return _mean_ap([mutual_similarity(views[q], views) for q in queries], count)


def global_map(store: ViewStore, to_step: ToStep) -> float:
    """Return the same figure for the global descriptors under training, in per cent."""
    with torch.no_grad():
        steps = (
            to_step(Batch(store.maps(row), store.items.size), index)
            for index, row in enumerate(store.rows.tolist())
        )
        vectors = torch.cat([step.global_vectors().double().cpu() for step in steps]).numpy()
    count = store.items.views
    return _mean_ap(list(vectors[::count] @ vectors.T), count)


def _mean_ap(similarities: Sequence[npt.NDArray[np.float64]], count: int) -> float:
    """Return mAP in per cent from similarities of the first of each photograph's `count` views to all views."""
    rankings = [np.argsort(-similarity, kind="stable") for similarity in similarities]
    names = [str(i) for i in range(len(similarities[0]))]
    queries = range(0, len(names), count)
    truth = GroundTruth(
        names=tuple(names),
        query_names=tuple(names[q] for q in queries),
        boxes=np.zeros((len(queries), 4)),
        easy=tuple(np.arange(q + 1, q + count) for q in queries),
        hard=tuple(np.empty(0, np.intp) for _ in queries),
        junk=tuple(np.array([q]) for q in queries),
    )
    return evaluate(rankings, truth, setup="easy").mean_ap


def best_descriptors(step: Step, scores: Scores) -> Tensor:
    """Return (V, K, D) descriptors of the K cells of highest score of each view, on the CPU."""
    features = step.features
    with torch.no_grad():
        best = scores(features).flatten(1).argsort(dim=1, descending=True, stable=True)[:, :_BEST]
        flat = features.flatten(2).transpose(1, 2)
        chosen = flat.gather(1, best[:, :, None].expand(-1, -1, flat.shape[2]))
        return step.describe(chosen.flatten(0, 1)).unflatten(0, chosen.shape[:2]).cpu()


def mutual_similarity(query: Tensor, gallery: Tensor) -> npt.NDArray[np.float64]:
    """Return for each of G gallery views the sum of similarity^3 over mutual nearest neighbours, (G,) float64.

    `query`, (K, D), and `gallery`, (G, K, D), are unit descriptors. Negative similarities count nothing.
    """
    similarity = (gallery @ query.T).double()  # (G, K of the gallery, K of the query)
    value, nearest = similarity.max(1)
    back = similarity.argmax(2).gather(1, nearest)
    mutual = back == torch.arange(query.shape[0])[None]
    return np.asarray((value.clamp_min(0) ** 3 * mutual).sum(1).numpy(), dtype=np.float64)


def match_precision(
    store: ViewStore, to_step: ToStep, scores: Scores, options: MatchOptions, *, seed: int
) -> float:
    """Share of correct nearest neighbours among the half of cells that score highest, on views not trained on."""
    right = []
    for index in range(_BATCHES):
        rng = np.random.default_rng((seed, 6, index))
        rows = draw_rows(store.rows, _PAIRS, index, seed=(seed, 6))
        views = [tuple(rng.permutation(store.items.views)[:2].tolist()) for _ in rows]
        with torch.no_grad():
            step = to_step(gather_pairs(store, rows, views), index)
            vectors, labels = labelled_cells(next(directions(step)), step, options)
            if len(vectors) == 0:
                continue
            found = scores(vectors[:, :, None, None])[:, 0, 0]
        best = found.argsort(descending=True, stable=True)[: max(1, len(found) // 2)]
        right.append(labels[best])
    return float(torch.cat(right).mean()) if right else 0.0
