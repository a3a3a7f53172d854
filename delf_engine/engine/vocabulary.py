"""Codebooks and mixtures of one's own: trained on the features of an engine, or on photographs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.config import load_profile
from delf_engine.engine.directory import FEATURES
from delf_engine.engine.manifest import MANIFEST, read_manifest
from delf_engine.errors import ConfigError, DataError
from delf_engine.features import LocalFeatures
from delf_engine.images import ImageSource, find_images
from delf_engine.index import Codebook, Mixture
from delf_engine.index.codebook.training import Blocks
from delf_engine.model import read_checkpoint_info
from delf_engine.storage import FeatureStore

Report: TypeAlias = Callable[[str, int, int], None]
OnError: TypeAlias = Callable[[ImageSource, Any], None] | None
Descriptors: TypeAlias = Iterable[npt.NDArray[np.float32]]

_MIXTURE_DESCRIPTORS = 100_000


def train_words(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    words: int,
    *,
    mixture: bool = False,
    per_image: int = 300,
    iterations: int | None = None,
    seed: int = 0,
    model: str | os.PathLike[str] = "delf-r18",
    max_pixels: int | None = None,
    on_error: OnError = None,
    progress: Report | None = None,
) -> Codebook | Mixture:
    """Train visual words, or a mixture of Gaussians, on an engine's features as stored, or on photographs.

    Words of the collection itself divide it best; those of other photographs need not be made anew as it changes,
    and are what published figures are measured with. Descriptors are read in blocks: memory holds the words and
    65,536 descriptors, however many there are.

    `source` is the directory of an engine, a folder of photographs, or several feature stores, such as parts of
    shards; `per_image` features of each image are taken, the best by attention. `iterations` (None: 10) and `seed`
    are those of `Codebook.train`, where words are found by the fast assignment; of a `mixture`, which is fitted to
    at most 100,000 descriptors drawn at random, those of `Mixture.train` (None: 100). `progress` is called with
    ("features", images done, images) while photographs are extracted, and ("codebook", iterations done,
    iterations).

    A `ConfigError` if `words`, `per_image` or `iterations` is below 1; a `DataError` if `source` is neither an
    engine with images nor a folder with photographs; a `FeatureError` if there are fewer descriptors than words.
    """
    report = progress or (lambda stage, done, total: None)
    with _descriptors(source, per_image, model, max_pixels, on_error, report) as descriptors:
        if mixture:
            blocks = Blocks(descriptors)
            count = min(blocks.count, _MIXTURE_DESCRIPTORS)
            rows = np.random.default_rng(seed).choice(blocks.count, count, replace=False, shuffle=False)
            data = blocks.gather(np.sort(rows))
            return Mixture.train(data, words, iterations=100 if iterations is None else iterations, seed=seed)
        return Codebook.train(
            descriptors,
            words,
            iterations=10 if iterations is None else iterations,
            seed=seed,
            half=True,
            progress=lambda done, total: report("codebook", done, total),
        )


@contextmanager
def _descriptors(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    per_image: int,
    model: str | os.PathLike[str],
    max_pixels: int | None,
    on_error: OnError,
    report: Report,
) -> Iterator[Descriptors]:
    if per_image < 1:
        raise ConfigError(f"per_image must be at least 1, got {per_image}")
    if not isinstance(source, (str, os.PathLike)):
        with ExitStack() as stack:
            stores = [stack.enter_context(FeatureStore.open(path, readonly=True)) for path in source]
            yield _Stored(stores, per_image)
        return
    folder = Path(source)
    if not (folder / MANIFEST).is_file():
        yield _extracted(find_images([folder]), per_image, model, max_pixels, on_error, report)
        return
    read_manifest(folder)
    with FeatureStore.open(folder / FEATURES, readonly=True) as store:
        if not len(store):
            raise DataError(f"{folder}: the engine is empty; add photographs first")
        yield _Stored([store], per_image)


class _Stored:
    """The best descriptors of every image of some stores, read anew in every iteration."""

    def __init__(self, stores: Sequence[FeatureStore], per_image: int) -> None:
        self._stores, self._per_image = stores, per_image

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        items = chain.from_iterable(store.items() for store in self._stores)
        best = (features.top(self._per_image).descriptors for _, features in items)
        while batch := list(islice(best, 128)):  # images are small: fewer and larger blocks
            yield np.concatenate(batch)


def _extracted(
    photos: Sequence[str],
    per_image: int,
    model: str | os.PathLike[str],
    max_pixels: int | None,
    on_error: OnError,
    report: Report,
) -> Iterator[npt.NDArray[np.float32]]:
    from delf_engine.extraction import Extractor

    profile = load_profile(read_checkpoint_info(model).profile)
    extractor = Extractor.from_pretrained(model, config=profile.extraction.for_codebook(), max_pixels=max_pixels)
    found: Iterable[tuple[ImageSource, LocalFeatures]] = extractor.extract_many(photos, on_error=on_error)
    for done, (_, features) in enumerate(found, 1):
        report("features", done, len(photos))
        yield features.top(per_image).descriptors
