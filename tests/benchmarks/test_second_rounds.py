"""The second rounds that are measured are those of the package, each on the whole gallery."""

from __future__ import annotations

import numpy as np

from benchmarks.reranking.second_rounds import _rounds
from delf_engine import AsmkIndex, Codebook, LocalFeatures, load_profile
from delf_engine.reranking import RerankOptions, expand_query, rerank_batch, rerank_graph
from helpers import random_features


def test_every_round_ranks_the_whole_gallery(rng: np.random.Generator) -> None:
    profile = load_profile("default")
    scene = random_features(rng, 150)

    def photo(first: int) -> LocalFeatures:
        part = slice(first, first + 80)
        return LocalFeatures(
            scene.keypoints[part], scene.scales[part], scene.scores[part], scene.descriptors[part], (640, 480)
        )

    queries = {"q": photo(0)}
    gallery = {f"i{k}": photo(20 * k) for k in range(4)} | {"x": random_features(rng, 80)}
    words = rng.normal(size=(16, 40))
    index = AsmkIndex(Codebook(words / np.linalg.norm(words, axis=1, keepdims=True)), profile.asmk)
    index.add(list(gallery), list(gallery.values()))
    box = (0.0, 0.0, 640.0, 480.0)
    found = _rounds(queries, gallery, {"q": box}, index, profile, seed=0)
    assert list(found) == [
        "inliers alone",
        "inliers, first 200",
        "+ expansion, same list",
        "+ expansion, new search",
        "+ graph",
        "+ both",
    ]
    for rankings, seconds in found.values():
        assert sorted(hit.id for hit in rankings["q"]) == sorted(gallery)
        assert seconds > 0
    first = found["inliers alone"][0]
    options = RerankOptions.of(profile)
    expanded = {"q": expand_query(queries["q"], first["q"], gallery, box=box)}
    lists = {"q": [(hit.id, hit.score or 0.0) for hit in sorted(first["q"], key=lambda hit: hit.first_rank)]}
    assert found["+ expansion, same list"][0] == rerank_batch(expanded, lists, gallery, options)
    again = found["+ expansion, new search"][0]
    for name, of in (("+ graph", first), ("+ both", again)):
        assert found[name][0] == rerank_graph(of, gallery, options)
