"""All indexes and encodings side by side, as candidates alone: accuracy, space and time, no geometry.

    python -m benchmarks.index.image_encodings [--model delf-r18] [--words 16 64 256] [--components 16 64]
        [--data DIR]
        [--only asmk kdtree ivf bow vlad fisher words] [--distractors] [--features STORE] [--training STORE]

All rank the photographs of Sub-RParis by the same features, in one run. ASMK and BoW have the codebook that
travels with the model (its words are the cells of IVF); those of VLAD, and the mixtures of Fisher vectors, are
trained on the photographs under photos/, which are unrelated. Regions are the rigid grid. Bytes an image are all
arrays of an index over the number of its images, without the codebook; for so few images the tables of an inverted
file weigh as much as many postings. The time is that of one search, the encoding of the query included: the median
over queries, each searched --rounds times. The family "words" is ASMK with codebooks of many sizes, trained on
those photographs, words found by the two-level search: what the packaged size was chosen on.

Features are cached. --features names a feature store as `revisited/sub_rparis.py` leaves it in its cache, and
--training one of the training photographs; no model is loaded where both are given.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.common import data_folder, options_parser, print_rows, sub_rparis, write_json
from benchmarks.revisited.ranking_rules import Row, row_of
from benchmarks.revisited.sub_rparis import searched, unranked
from benchmarks.systems import model_system
from delf_engine import LocalFeatures, load_profile
from delf_engine.config import AsmkConfig, BowConfig, FisherConfig, VladConfig
from delf_engine.errors import DataError
from delf_engine.evaluation import GroundTruth, Setup
from delf_engine.images import find_images
from delf_engine.index import (
    AsmkIndex,
    CandidateIndex,
    Codebook,
    DenseIndex,
    IvfIndex,
    KdTreeIndex,
    Mixture,
)
from delf_engine.model import codebook_path
from delf_engine.storage import FeatureStore

C = TypeVar("C", AsmkConfig, BowConfig, FisherConfig, VladConfig)
Features = Mapping[str, LocalFeatures]
#: What it is called, how many words or Gaussians it has, and how to make an empty one.
Candidate = tuple[str, int, Callable[[], CandidateIndex]]

_FAMILIES = ["asmk", "kdtree", "ivf", "bow", "vlad", "fisher", "words"]
_CODEBOOKS = [1024, 2048, 4096, 8192, 16384, 32768, 65536]
_ITERATIONS = 15  # of codebooks of many sizes
_SHOWN: tuple[Setup, ...] = ("medium", "hard")
_VLAD: dict[str, dict[str, Any]] = {
    "VLAD, power 1": {"power": 1.0},
    "VLAD, intra": {"intra": True, "power": 1.0},
    "VLAD": {},
    "R-VLAD, power 1": {"power": 1.0, "regions": "grid"},
    "R-VLAD": {"regions": "grid"},
}
_FISHER: dict[str, dict[str, Any]] = {"Fisher, power 1": {"power": 1.0}, "Fisher": {}}


def main(given: Sequence[str] | None = None) -> None:
    """Measure all encodings, print a table, write JSON."""
    args = _arguments(given)
    data = data_folder(args.data)
    truth = sub_rparis(data, distractors=args.distractors)
    queries, gallery = _stored(args.features, truth) if args.features else _ranked(args, truth, data)
    training = _training(args, data)
    path = args.codebook or codebook_path(args.model)
    if path is None:
        raise DataError(f"{args.model}: no codebook lies beside it; give one with --codebook")
    rows = []
    for name, words, make in candidates(Codebook.load(path), training, args):
        row = measured(make(), truth, queries, gallery, args.rounds)
        rows.append({"encoding": name, "words": words, **row})
    _print(rows, truth)
    options = {"model": args.model, "photographs": args.photos, "training_descriptors": len(training)}
    write_json(args.out, {**options, "queries": len(truth), "images": len(truth.names), "rows": rows})


def candidates(codebook: Codebook, training: npt.NDArray[np.float32], args: argparse.Namespace) -> list[Candidate]:
    """Return the encodings to compare; codebooks and mixtures are trained here."""
    profile = load_profile()
    asmk, bow, kdtree = profile.asmk, profile.bow, profile.kdtree
    fast = _changed(asmk, assignment="fast")
    inverted: dict[str, Callable[[], CandidateIndex]] = {
        "ASMK": partial(AsmkIndex, codebook, _changed(asmk, assignment="exact")),
        "ASMK, fast words": partial(AsmkIndex, codebook, fast),
        "ASMK, idf": partial(AsmkIndex, codebook, _changed(asmk, idf=True)),
        "R-ASMK": partial(AsmkIndex, codebook, _changed(asmk, regions="grid")),
        "BoW, tf": partial(DenseIndex, "bow", codebook, _changed(bow, idf=False)),
        "BoW": partial(DenseIndex, "bow", codebook, bow),
        "BoW, 5 words a query": partial(DenseIndex, "bow", codebook, _changed(bow, query_assignments=5)),
    }
    out: list[Candidate] = [(n, codebook.words, make) for n, make in inverted.items() if _asked(n, args)]
    if "kdtree" in args.only:
        out.append(("KD-tree", 0, partial(KdTreeIndex, codebook.dim, kdtree)))
    if "ivf" in args.only:
        out.append(("IVF", codebook.words, partial(IvfIndex, codebook, profile.ivf)))
    for words in args.codebook_words if "words" in args.only else []:
        book = Codebook.train([training], words, iterations=_ITERATIONS, half=True)
        out.append(("ASMK, fast words", words, partial(AsmkIndex, book, fast)))
    for words in args.words if "vlad" in args.only else []:
        book = Codebook.train(training, words, iterations=20, seed=args.seed)
        for name, changes in _VLAD.items():
            out.append((name, words, partial(DenseIndex, "vlad", book, _changed(profile.vlad, **changes))))
    sample = np.random.default_rng(args.seed).permutation(len(training))[: args.mixture_descriptors]
    for components in args.components if "fisher" in args.only else []:
        mixture = Mixture.train(training[np.sort(sample)], components, seed=args.seed)
        for name, changes in _FISHER.items():
            options = _changed(profile.fisher, **changes)
            out.append((name, components, partial(DenseIndex, "fisher", mixture, options)))
    return out


def measured(
    index: CandidateIndex, truth: GroundTruth, queries: Features, gallery: Features, rounds: int
) -> dict[str, Any]:
    """Return the figures of one encoding."""
    lists, _ = searched(index, queries, gallery)
    times = []
    for _ in range(rounds):
        for features in queries.values():
            start = time.perf_counter()
            index.search(features, 100)
            times.append(time.perf_counter() - start)
    row: Row = row_of(truth, [unranked(lists)], statistics.median(times))
    return {
        **{setup: row[setup] for setup in _SHOWN},
        "bytes_an_image": index.info().bytes / len(index),
        "ms_a_query": 1000 * row["seconds_per_query"],
    }


def _asked(name: str, args: argparse.Namespace) -> bool:
    return ("bow" if name.startswith("BoW") else "asmk") in args.only


def _changed(config: C, **changes: Any) -> C:
    return type(config).model_validate({**config.model_dump(), **changes})


def _stored(path: Path, truth: GroundTruth) -> tuple[Features, Features]:
    with FeatureStore.open(path, readonly=True) as store:
        queries = dict(
            zip(truth.query_names, store.get_many(f"query {n}" for n in truth.query_names), strict=True)
        )
        return queries, dict(zip(truth.names, store.get_many(truth.names), strict=True))


def _ranked(args: argparse.Namespace, truth: GroundTruth, data: Path) -> tuple[Features, Features]:
    return model_system(args.model).ranked(truth, data, args.cache)


def _training(args: argparse.Namespace, data: Path) -> npt.NDArray[np.float32]:
    """Return the descriptors to train on, the best of each photograph."""
    if args.training:
        with FeatureStore.open(args.training, readonly=True) as store:
            found = store.get_many(store.ids()[: args.photos])
    else:
        system = model_system(args.model, config=load_profile().extraction.for_codebook())
        photos = {path: Path(path) for path in find_images([data / "photos"])[: args.photos]}
        found = list(system.features_of("photos", photos, args.cache).values())
    return np.concatenate([features.top(args.top).descriptors for features in found])


def _print(rows: Sequence[Mapping[str, Any]], truth: GroundTruth) -> None:
    interval = "{{{0}[mean_ap]:.1f}} [{{{0}[interval_95][0]:.1f}}, {{{0}[interval_95][1]:.1f}}]"
    columns = {
        "encoding": "{encoding}",
        "words": "{words:,}",
        **{f"{setup.capitalize()} [95 %]": interval.format(setup) for setup in _SHOWN},
        "bytes an image": "{bytes_an_image:,.0f}",
        "ms a query": "{ms_a_query:.1f}",
    }
    print_rows(f"Sub-RParis by the index alone: {len(truth)} queries, {len(truth.names)} images", rows, columns)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out/image_encodings.json", data=True, model=True)
    parser.add_argument("--codebook", type=Path, help="of ASMK and BoW; without it, the one beside the model")
    parser.add_argument("--features", type=Path, help="feature store of the queries and images")
    parser.add_argument("--training", type=Path, help="feature store of the photographs to train on")
    parser.add_argument(
        "--only", nargs="+", choices=_FAMILIES, default=_FAMILIES[:-1], help="without it, all but words"
    )
    parser.add_argument("--distractors", action="store_true", help="add the unrelated photographs to the gallery")
    parser.add_argument("--photos", type=int, default=2000, help="photographs to train on, at most")
    parser.add_argument("--top", type=int, default=300, help="descriptors of each")
    parser.add_argument("--words", type=int, nargs="*", default=[16, 64, 256], help="of VLAD")
    parser.add_argument("--codebook-words", type=int, nargs="*", default=_CODEBOOKS, help="of the family words")
    parser.add_argument("--components", type=int, nargs="*", default=[16, 64], help="of Fisher vectors")
    parser.add_argument("--mixture-descriptors", type=int, default=100_000, help="to train mixtures on, at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(given)
    counts = [args.photos, args.top, args.mixture_descriptors, args.rounds]
    if min([*counts, *args.words, *args.codebook_words, *args.components]) < 1:
        parser.error("counts must be at least 1")
    return args


if __name__ == "__main__":
    main()
