"""The size of the codebook: words against accuracy, time and space, on Sub-RParis with and without distractors.

    python -m benchmarks.index.codebook_size [--model delf-r18] [--words 1024 ... 65536] [--data DIR]

Codebooks are trained on the photographs that the packaged one was trained on (photos/: none of Paris, and none of
the distractors), by the same rule: the 300 best descriptors of each, 15 iterations of k-means. Images are ranked
by ASMK alone, words found by the two-level search (or exactly, with ``--exact``). Sub-RParis is a development set:
the packaged size was chosen on it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import cached_features, data_folder, print_table, rank_features, sub_rparis, write_json
from benchmarks.revisited.sub_rparis import with_distractors
from delf_engine import AsmkIndex, Codebook, Extractor, LocalFeatures, load_profile
from delf_engine.evaluation import GroundTruth, evaluate
from delf_engine.images import find_images

_TOP, _ITERATIONS = 300, 15


def main() -> None:
    """Measure each size, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="delf-r18")
    parser.add_argument("--words", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384, 32768, 65536])
    parser.add_argument("--exact", action="store_true", help="words by the exact search")
    parser.add_argument("--data", help="folder that holds paris/, photos/, distractors/ and revisited/")
    parser.add_argument("--cache", type=Path, default=Path("out/cache"))
    parser.add_argument("--out", type=Path, default=Path("out/codebook_size.json"))
    args = parser.parse_args()
    data = data_folder(args.data)
    plain = sub_rparis(data)
    truths = {"": plain, "distractors ": with_distractors(plain, data)}
    found = {name: _features(args, data, truth) for name, truth in truths.items()}
    training = _training(args, data)
    rows = []
    for words in args.words:
        start = time.perf_counter()
        book = Codebook.train([training], words, iterations=_ITERATIONS, half=True)
        row: dict[str, Any] = {"words": words, "train_s": time.perf_counter() - start}
        for name, truth in truths.items():
            row |= _measured(book, truth, *found[name], name, args.exact)
        rows.append(row)
        write_json(args.out, {"model": args.model, "descriptors": len(training), "rows": rows})
    columns = ["words", "Medium / Hard", "with distractors", "ms a query", "bytes an image", "codebook MiB", "s"]
    table = [
        [
            f"{row['words']:,}",
            f"{row['medium']:.1f} / {row['hard']:.1f}",
            f"{row['distractors medium']:.1f} / {row['distractors hard']:.1f}",
            f"{row['distractors query_ms']:.1f}",
            f"{row['distractors bytes_an_image']:,.0f}",
            f"{2 * 40 * row['words'] / 2**20:.2f}",
            f"{row['train_s']:.0f}",
        ]
        for row in rows
    ]
    print_table(f"Sub-RParis by ASMK alone ({args.model}, {len(training):,} training descriptors)", columns, table)


def _features(
    args: argparse.Namespace, data: Path, truth: GroundTruth
) -> tuple[dict[str, LocalFeatures], dict[str, LocalFeatures]]:
    extractor = Extractor.from_pretrained(args.model)
    assert extractor.info is not None
    identity = f"{extractor.info.identity} {extractor.config.model_dump_json()}"
    return rank_features(extractor, identity, extractor.network.dim, truth, data, args.cache)


def _training(args: argparse.Namespace, data: Path) -> npt.NDArray[np.float32]:
    extractor = Extractor.from_pretrained(args.model)
    assert extractor.info is not None
    extractor = Extractor.from_pretrained(args.model, config=extractor.config.for_codebook())
    assert extractor.info is not None
    items = {path: partial(extractor, path) for path in find_images([data / "photos"])}
    identity = f"{extractor.info.identity} {extractor.config.model_dump_json()} photos"
    features = cached_features(args.cache, identity, extractor.network.dim, items, title="photographs")
    return np.concatenate([item.top(_TOP).descriptors for item in features.values()])


def _measured(
    book: Codebook,
    truth: GroundTruth,
    queries: dict[str, LocalFeatures],
    gallery: dict[str, LocalFeatures],
    name: str,
    exact: bool,
) -> dict[str, float]:
    config = load_profile().asmk.model_copy(update={"assignment": "exact" if exact else "fast"})
    index = AsmkIndex(book, config)
    index.add(list(gallery), list(gallery.values()))
    index.search(next(iter(queries.values())), 1)
    rankings, times = [], []
    for features in queries.values():
        start = time.perf_counter()
        rankings.append(index.search(features, len(gallery))[0])
        times.append(time.perf_counter() - start)
    values = {setup: evaluate(rankings, truth, setup=setup).mean_ap for setup in ("medium", "hard")}
    entries = index.info().entries
    values |= {"query_ms": statistics.median(times) * 1e3, "bytes_an_image": 12 * entries / len(gallery)}
    return {f"{name}{key}": value for key, value in values.items()}


if __name__ == "__main__":
    main()
