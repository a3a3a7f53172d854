"""The ASMK index beside the published Python ASMK, and at a million images.

    pip install "delf-engine[asmk]"
    python -m benchmarks.index.speed published [--images 2000] [--words 65536]
    python -m benchmarks.index.speed large [--images 1000000] [--folder DIR]

"published" builds an index of synthetic images of 1,000 descriptors, about 700 visual words each, with ours and
with the published package (asmk 0.1.1: flat faiss, NumPy, Cython), one after the other, and searches both with the
same queries. Scores are compared under that package's rule for the divisor, with exact words. "large" writes an
inverted file of random codes, about 12 bytes a posting (8.5 GB for a million images), and measures opening it,
searching it, adding to it, merging it, and what is there after kill -9 during adding and merging.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import options_parser, print_table, timed, write_json
from benchmarks.index.large import measure_large
from benchmarks.index.synthetic import DIM, descriptors, images
from delf_engine import AsmkIndex, Codebook, LocalFeatures, load_profile
from delf_engine.index.asmk.aggregation import aggregated

_IMAGE_SEED, _QUERY_SEED = 1, 2
_PARTS = 200  # images whose descriptors are assigned alone


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what was asked for."""
    args = _arguments(arguments)
    if args.what == "large":
        measure_large(args.folder, args.images or 1_000_000, args.words, args.queries, args.kills, args.out)
    else:
        _published(args)


def _published(args: argparse.Namespace) -> None:
    book = Codebook(descriptors(args.words, np.random.default_rng(0)))
    gallery = list(images(args.images or 2000, args.per_image, _IMAGE_SEED))
    queries = list(images(args.queries, args.per_image, _QUERY_SEED))
    (exact, index), (fast, _) = (_ours(book, gallery, queries, mode) for mode in ("exact", "fast"))
    rows, recall = [exact, fast], _recall(book, queries)
    same: dict[str, float] = {}
    if not args.no_peer:
        peer, scores = _peer(book, gallery, queries)
        rows.insert(0, peer)
        same = _agreement(index, queries, scores)
    _report(args, rows, recall, same)


def _ours(
    book: Codebook, gallery: Sequence[LocalFeatures], queries: Sequence[LocalFeatures], mode: str
) -> tuple[dict[str, Any], AsmkIndex]:
    """Return what building and searching costs, from descriptors to ids, and the index."""
    config = load_profile().asmk.model_copy(update={"assignment": mode})
    _warm(book, gallery, config)
    ids = [str(i) for i in range(len(gallery))]
    index = AsmkIndex(book, config)
    with tempfile.TemporaryDirectory() as folder:
        added, _ = timed(lambda: index.add(ids, gallery))
        saved, _ = timed(lambda: index.save(folder))
        build = added + saved
        disk = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
    info = index.info()
    data = np.concatenate([item.descriptors for item in gallery[:_PARTS]])
    assign, _ = timed(lambda: book.assign(data, 1, mode=config.assignment))
    searched = [timed(partial(index.search, q, 100))[0] for q in queries]
    assigned = [timed(partial(book.assign, q.descriptors, 5, mode=config.assignment))[0] for q in queries]
    scoring, touched = _scoring(index, queries)
    row = {
        "name": f"delf-engine, {mode} words",
        "assign_us_a_descriptor": assign / len(data) * 1e6,
        "build_ms_an_image": build / len(gallery) * 1e3,
        "query_assign_ms": statistics.median(assigned) * 1e3,
        "query_ms": statistics.median(searched) * 1e3,
        "scoring_ms": scoring * 1e3,
        "ns_a_posting": scoring / touched * 1e9,
        "bytes_a_posting": disk / info.entries,
        "postings_an_image": info.entries / len(gallery),
    }
    return row, index


def _warm(book: Codebook, gallery: Sequence[LocalFeatures], config: Any) -> None:
    index = AsmkIndex(book, config)
    index.add(["a", "b"], gallery[:2])
    index.search(gallery[0], 1)


def _scoring(index: AsmkIndex, queries: Sequence[LocalFeatures]) -> tuple[float, float]:
    """Return the median time of scoring a query in one thread, and the mean number of postings touched."""
    times, touched = [], []
    for query in aggregated(index.codebook, queries, 5, index.config.assignment, threads=os.cpu_count() or 1):
        times.append(min(timed(partial(index._score, query, 1))[0] for _ in range(5)))
        segments = index._collection.segments
        touched.append(sum(int(np.diff(s.arrays["word_offsets"])[query[0]].sum()) for s in segments))
    return statistics.median(times), float(np.mean(touched))


def _recall(book: Codebook, queries: Sequence[LocalFeatures]) -> dict[str, float]:
    data = np.concatenate([q.descriptors for q in queries])
    exact, fast = book.assign(data, 5), book.assign(data, 5, mode="fast")
    return {
        "recall_at_1": float((exact[:, 0] == fast[:, 0]).mean()),
        "recall_at_5": float(np.mean([np.isin(a, b).mean() for a, b in zip(exact, fast, strict=True)])),
    }


def _peer(
    book: Codebook, gallery: Sequence[LocalFeatures], queries: Sequence[LocalFeatures]
) -> tuple[dict[str, Any], list[npt.NDArray[np.float64]]]:
    """Return what the published package costs, and its scores of all images for each query."""
    try:
        from asmk import codebook, index, inverted_file, kernel
    except ImportError as error:
        raise SystemExit(
            f"the published package is missing ({error}): install delf-engine[asmk], or say --no-peer"
        ) from error
    words = codebook.Codebook(index.initialize_index(None), size=book.words)
    words.index(book.centroids)
    binary = kernel.ASMKKernel(words, binary=True)
    postings = inverted_file.IVF.initialize_empty(codebook_size=book.words, use_idf=False)
    data = np.concatenate([item.descriptors for item in gallery])
    numbers = np.repeat(np.arange(len(gallery)), [len(item) for item in gallery])
    assign, found = timed(lambda: words.quantize(data, numbers, multiple_assignment=1))
    aggregate, columns = timed(lambda: binary.aggregate(*found))
    insert, _ = timed(lambda: postings.add(*columns))
    rule = {"alpha": 3.0, "similarity_threshold": 0.0}
    times, assigned, scoring = [], [], []
    for query in queries:

        def search(query: LocalFeatures = query) -> Any:
            start = time.perf_counter()
            des, ids = words.quantize(query.descriptors, multiple_assignment=5)
            assigned.append(time.perf_counter() - start)
            collected = binary.aggregate_image(des, ids)
            start = time.perf_counter()
            result = postings.search(
                *collected, similarity_func=lambda *x: binary.similarity(*x, **rule), topk=len(gallery)
            )
            scoring.append(time.perf_counter() - start)
            return result

        times.append(timed(search)[0])
    row = {
        "name": "published ASMK (asmk 0.1.1)",
        "assign_us_a_descriptor": assign / len(data) * 1e6,
        "build_ms_an_image": (assign + aggregate + insert) / len(gallery) * 1e3,
        "query_assign_ms": statistics.median(assigned) * 1e3,
        "query_ms": statistics.median(times) * 1e3,
        "scoring_ms": statistics.median(scoring) * 1e3,
    }
    return row, _peer_scores(book, binary, data, numbers, queries)


def _peer_scores(
    book: Codebook,
    binary: Any,
    data: npt.NDArray[np.float32],
    numbers: npt.NDArray[np.int64],
    queries: Sequence[LocalFeatures],
) -> list[npt.NDArray[np.float64]]:
    """Return the published package's scores of all images where descriptors have our exact words.

    By itself its float32 search gives a few descriptors in ten thousand another word than the nearest.
    """
    from asmk import inverted_file

    postings = inverted_file.IVF.initialize_empty(codebook_size=book.words, use_idf=False)
    postings.add(*binary.aggregate(data, book.assign(data), numbers))
    scores = []
    for query in queries:
        collected = binary.aggregate_image(query.descriptors, book.assign(query.descriptors, 5))
        similarity = partial(binary.similarity, alpha=3.0, similarity_threshold=0.0)
        ranks, values = postings.search(*collected, similarity_func=similarity, topk=postings.n_images)
        scores.append(values[np.argsort(ranks)])
    return scores


def _agreement(
    index: AsmkIndex, queries: Sequence[LocalFeatures], wanted: Sequence[npt.NDArray[np.float64]]
) -> dict[str, float]:
    """Compare scores with those of the published package, which divides by 64 where there are 40 bits."""
    index.config = index.config.model_copy(update={"divisor": "padded"})
    largest = 0.0
    for query, published in zip(queries, wanted, strict=True):
        ids, scores = index.search(query, len(index))
        ours = np.zeros(len(index))
        ours[[int(i) for i in ids]] = scores
        largest = max(largest, float(np.abs(ours - published).max() / np.abs(published).max()))
    return {"largest_difference": largest}


def _report(
    args: argparse.Namespace, rows: Sequence[dict[str, Any]], recall: dict[str, float], same: dict[str, float]
) -> None:
    names = ["assign_us_a_descriptor", "build_ms_an_image", "query_assign_ms", "scoring_ms", "query_ms"]
    columns = ["", "assign us", "build ms", "assign ms", "score ms", "query ms"]
    ratio = ["build x", "query x"] if not args.no_peer else []
    table = []
    for row in rows:
        line = [row["name"], *(f"{row[name]:.2f}" for name in names)]
        if ratio:
            line += [f"{rows[0][name] / row[name]:.1f}" for name in ("build_ms_an_image", "query_ms")]
        table.append(line)
    print_table(
        f"{args.images or 2000} images of {args.per_image} descriptors, {args.words:,} words of {DIM} dimensions; "
        "a descriptor, an image, a query",
        [*columns, *ratio],
        table,
    )
    last = rows[-1]
    print(
        f"{last['postings_an_image']:.0f} postings an image, {last['bytes_a_posting']:.2f} bytes each on disk, "
        f"scored in {last['ns_a_posting']:.2f} ns each by one thread; fast words: recall@1 "
        f"{recall['recall_at_1']:.4f}, recall@5 {recall['recall_at_5']:.4f}"
    )
    if same:
        print(f"scores beside the published package's, same words: within {same['largest_difference']:.1e}")
    write_json(args.out / "index_published.json", {"rows": rows, **recall, **same})


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out")
    parser.add_argument("what", choices=["published", "large"])
    parser.add_argument("--images", type=int, help="2,000, or a million")
    parser.add_argument("--words", type=int, default=65536)
    parser.add_argument("--per-image", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--kills", type=int, default=3, help="large: times that adding and merging are killed")
    parser.add_argument("--folder", type=Path, help="large: where to keep the index; a temporary folder otherwise")
    parser.add_argument("--no-peer", action="store_true")
    args = parser.parse_args(arguments)
    if args.folder is None and args.what == "large":
        args.folder = Path(tempfile.mkdtemp(prefix="delf-engine-"))
        import atexit

        atexit.register(shutil.rmtree, args.folder, ignore_errors=True)
    return args


if __name__ == "__main__":
    main()
