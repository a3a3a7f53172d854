"""Re-ranking the hits of another system without an engine: features are extracted on demand, and kept."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from delf_engine.config import Profile, load_profile
from delf_engine.engine.fine import FineSource
from delf_engine.engine.pairs import calibration_of, turned_features
from delf_engine.engine.results import SearchResult
from delf_engine.engine.searching import SearchOptions
from delf_engine.engine.searching import rerank as rerank_views
from delf_engine.engine.state import Query
from delf_engine.engine.views import View
from delf_engine.errors import ConfigError, DataError, DelfEngineWarning, ImageError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.images import Box, ImageSource
from delf_engine.images.files import no_path, shortened
from delf_engine.reranking import RerankOptions, read_hits
from delf_engine.reranking.hits import Hit, Names
from delf_engine.storage import FeatureStore
from delf_engine.storage.codec import as_stored
from delf_engine.storage.shared import DATA
from delf_engine.verification import Calibration

if TYPE_CHECKING:
    from delf_engine.extraction import Extractor

_Sources: TypeAlias = dict[str, str | bytes]  # by id

_COMMIT = 32  # images in one transaction of the cache


def rerank(
    photo: ImageSource | LocalFeatures,
    hits: Any,
    *,
    names: Names | None = None,
    field: str | None = None,
    distances: bool | None = None,
    cache: FeatureStore | str | os.PathLike[str] | None = None,
    box: Box | None = None,
    top_k: int | None = None,
    top_n: int | None = None,
    seed: int = 0,
    confirm: int = 10,
    model: str | os.PathLike[str] = "delf-r18",
    profile: str | os.PathLike[str] | None = None,
    extractor: Extractor | None = None,
    device: str = "cpu",
) -> SearchResult:
    """Re-rank what another system has found for a photograph, as that system has returned it.

    The first `top_n` hits are verified as `Engine.search` verifies its own; all others follow in their order.

    Parameters
    ----------
    photo : image or LocalFeatures
    hits, names, field, distances
        See `delf_engine.reranking.read_hits`. Hits name files, are the bytes of files, or ids of `cache`.
    cache : FeatureStore, path or None
        Where features are kept for the next call: a store, or the directory of one, which is made if need be.
        What it holds under the id of a hit is taken as it is; a file is extracted again once it has changed.
        None: nothing is kept.
    box : x0, y0, x1, y1 or None
        Region of interest of the photograph, in pixels.
    top_k : int or None
        Hits to return at most; None: all.
    top_n, seed, confirm
        As of `Engine.search`.
    model : str or path
        Checkpoint, by name or path.
    profile : str, path or None
        Options by the name of a profile or the path of its file; None: the checkpoint's own.
    extractor : Extractor or None
        Used instead of loading `model`: give one when re-ranking more than once.
    device : str
        That verifies, see `delf_engine.reranking.RerankOptions`; the extractor has its own.

    Returns
    -------
    SearchResult
        The id of bytes is ``sha256:`` and their digest. Hits whose file is missing or cannot be read stay behind
        those verified, and are named in one `DelfEngineWarning`.

    Raises
    ------
    ImageError
        If the photograph cannot be read.
    DataError, ConfigError
        If the hits cannot be understood, or one is an address or a picture in text.
    MismatchError
        If the cache holds features of another model or of other options, or `photo` is such features.
    LockedError
        If the cache is to be written, and another process writes to it, or it was opened read-only.
    """
    options = SearchOptions(top_k, top_n, seed=seed, confirm=confirm)
    shortlist = read_hits(hits, names=names, field=field, distances=distances)
    if extractor is None:
        from delf_engine.extraction import Extractor

        extractor = Extractor.from_pretrained(model, profile=profile)
    info = extractor.info
    chosen = load_profile(profile or ("default" if info is None else info.profile))
    calibration = calibration_of(model, chosen, None if info is None else info.identity)
    with _opened(cache, extractor) as store:
        named, sources = _named(shortlist, store)
        wanted = chosen.reranking.top_n if top_n is None else top_n
        views = _Photographs(dict(list(sources.items())[:wanted]), extractor, chosen, calibration, store, device)
        result = rerank_views(views, photo, named, options, box=box)
    if views.failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(views.failed.items())[:5])
        more = "; ..." if len(views.failed) > 5 else ""
        message = f"not verified, left behind the others: {len(views.failed)} ({reasons}{more})"
        warnings.warn(message, DelfEngineWarning, stacklevel=2)
    return result


class _Photographs:
    """Candidates as files, bytes and ids of a cache, with what `searching.Views` asks of them."""

    def __init__(
        self,
        sources: _Sources,
        extractor: Extractor,
        profile: Profile,
        calibration: Calibration | None,
        cache: FeatureStore | None,
        device: str,
    ) -> None:
        self.failed: dict[str, str] = {}
        self._sources, self._extractor, self._profile = sources, extractor, profile
        self._calibration, self._cache, self._device = calibration, cache, device
        self._fine = FineSource(None, profile)

    @cached_property
    def store(self) -> Mapping[str, LocalFeatures]:
        """Features by id, without those of images that cannot be read: these are noted in `failed`."""
        keys = {name: _key(name, source, self._cache) for name, source in self._sources.items()}
        found: dict[str, LocalFeatures] = {}
        new: list[tuple[str, LocalFeatures]] = []
        if self._cache is not None:
            known = [name for name, key in keys.items() if key in self._cache]
            found |= zip(known, self._cache.get_many(keys[name] for name in known), strict=True)
        missing = {source: name for name, source in self._sources.items() if name not in found}

        def failed(source: ImageSource, error: ImageError) -> None:
            self.failed[missing[source]] = error.reason  # type: ignore[index]

        for source, features in self._extractor.extract_many(list(missing), on_error=failed):
            name = missing[source]
            if self._cache is None:
                found[name] = features
                continue
            found[name] = as_stored(features, self._cache.codec)  # the same bits in this call and the next
            new.append((keys[name], features))
            if len(new) == _COMMIT:
                self._cache.put_many(new)
                new.clear()
        if self._cache is not None and new:
            self._cache.put_many(new)
        return found

    def rerank_options(self, **given: Any) -> RerankOptions:
        given |= {"calibration": self._calibration, "on_missing": "ignore", "device": self._device}
        return RerankOptions.of(self._profile, **given)

    def view_of(self, query: Query, box: Box | None = None, *, fine: bool = True) -> View:
        if isinstance(query, LocalFeatures):
            if box is not None:
                raise ConfigError("a box goes with an image; features were given")
            return View(query)
        features = self._extractor(query, box=box)
        details = self._fine.extracted(query, box) if fine else None
        return View(features, details, partial(turned_features, query, self._extractor, box))

    def fine_of(self, query: Query) -> LocalFeatures | None:
        source = self._sources[str(query)]
        return self._fine.extracted(source) if isinstance(source, bytes) else self._fine.get("", source)


def _named(shortlist: list[Hit], cache: FeatureStore | None) -> tuple[list[Any], _Sources]:
    """Return the shortlist with ids for bytes, and what to read by id, in its order."""
    named: list[Any] = []
    sources: _Sources = {}
    for place, hit in enumerate(shortlist, start=1):
        source = hit[0] if isinstance(hit, tuple) else hit
        if isinstance(source, bytes):
            name = f"sha256:{hashlib.sha256(source).hexdigest()}"
        else:
            name, problem = source, no_path(source)
            if problem and (cache is None or source not in cache):
                raise DataError(f"hit {place}: {shortened(source)} {problem}")
        sources.setdefault(name, source)
        named.append((name, hit[1]) if isinstance(hit, tuple) else name)
    return named, sources


def _key(name: str, source: str | bytes, cache: FeatureStore | None) -> str:
    """Return what a cache keeps an image under: its id if it is there, or the file as it is now."""
    if isinstance(source, bytes) or (cache is not None and name in cache):
        return name
    try:
        status = os.stat(source)
    except (OSError, ValueError):
        return name  # it is said where it is read
    return f"{os.path.abspath(source)}\0{status.st_mtime_ns}\0{status.st_size}"


@contextmanager
def _opened(
    cache: FeatureStore | str | os.PathLike[str] | None, extractor: Extractor
) -> Iterator[FeatureStore | None]:
    """Open a cache, made if need be, and close it again unless it was open."""
    if cache is None:
        yield None
        return
    options = extractor.config.model_dump_json(exclude={"precision", "max_pixels"})
    model = "" if extractor.info is None else extractor.info.identity
    made_by = f"{model}, extraction {hashlib.sha256(options.encode()).hexdigest()[:16]}"
    with ExitStack() as stack:
        if not isinstance(cache, FeatureStore):
            there = (Path(cache) / DATA).is_file()
            # In full: the bits are those of a call without a cache.
            create = partial(FeatureStore.create, dim=extractor.dim, codec="float32", model=made_by)
            cache = stack.enter_context(FeatureStore.open(cache) if there else create(cache))
        if cache.dim != extractor.dim or cache.model not in ("", model, made_by):  # engines name the model alone
            raise MismatchError(
                f"{cache.path}: holds {cache.dim}-D features of {cache.model or 'an unknown model'}, wanted "
                f"{extractor.dim}-D ones of {made_by}; name another cache"
            )
        yield cache
