"""The demo: render a collection, index it, search it, verify, and draw what was found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from delf_engine.demo.scenes import Collection, Photo, render_collection
from delf_engine.engine import Engine, SearchResult
from delf_engine.engine.manifest import MANIFEST
from delf_engine.errors import FormatError
from delf_engine.images import find_images
from delf_engine.plotting import draw_attention, draw_ranking, save_figure, save_matches
from delf_engine.support.files import system_errors

_HITS = 10
_MOST_PLACES = 8  # of a user's own folder: enough to see, and still a minute


@dataclass(frozen=True)
class DemoSearch:
    """One query of the demo, the place that each photograph of the collection shows in truth, what was drawn."""

    query: Photo
    result: SearchResult
    shows: dict[str, str | None]
    pictures: tuple[Path, ...]

    @property
    def right(self) -> int:
        """Views of the place in the collection."""
        return sum(place == self.query.place for place in self.shows.values())

    @property
    def found_first(self) -> int:
        """Right hits before the first wrong one."""
        wrong = (count for count, hit in enumerate(self.result) if self.shows[hit.id] != self.query.place)
        return next(wrong, len(self.result))

    @property
    def correct(self) -> bool:
        """Whether all right photographs stand before all wrong ones and are said to show the same place."""
        right = [h for h in self.result if self.shows[h.id] == self.query.place]
        return self.found_first >= self.right and all(h.verdict == "same" for h in right)

    @property
    def mistaken(self) -> int:
        """Wrong photographs said to show the same place."""
        wrong = [h for h in self.result if self.shows[h.id] != self.query.place]
        return sum(h.verdict == "same" for h in wrong)


@dataclass(frozen=True)
class DemoReport:
    """What the demo did: the engine's directory, and a search for each place."""

    engine: Path
    images: int
    searches: tuple[DemoSearch, ...]

    @property
    def correct(self) -> bool:
        """Whether every search ranked all right photographs first and accepted them."""
        return all(search.correct for search in self.searches)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return {
            "engine": str(self.engine),
            "images": self.images,
            "correct": self.correct,
            "searches": [
                {
                    "query": str(s.query.path),
                    "place": s.query.place,
                    "correct": s.correct,
                    "mistaken": s.mistaken,
                    "hits": [h.to_dict(with_verification=False) | {"shows": s.shows[h.id]} for h in s.result],
                    "pictures": [str(p) for p in s.pictures],
                }
                for s in self.searches
            ],
        }


def run_demo(
    out: str | os.PathLike[str],
    *,
    photos: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> DemoReport:
    """Render views of photographs among clutter, index them, and search with one more view of each.

    `out` is the folder for the collection, the engine and the pictures; what an earlier demo left there is
    replaced. `photos` is a folder of photographs to take instead of the two that scikit-learn ships; the seed is
    that of the rendering and of RANSAC. A `DataError` if `photos` holds no image; a `FormatError` if `out` holds
    something that is no earlier demo.
    """
    folder = Path(out)
    sources: Sequence[str] | None = find_images([photos])[:_MOST_PLACES] if photos is not None else None
    report = progress or (lambda *_: None)
    report("rendering photographs", 0, 1)
    with system_errors(f"{folder}: cannot be written"):
        _clear(folder)
        collection = render_collection(folder / "collection", seed=seed, photos=sources)
    report("rendering photographs", 1, 1)
    paths = [photo.path for photo in collection.gallery]
    with Engine.create(folder / "engine", root=paths[0].parent) as engine:  # ids are names: the table stays narrow
        engine.add(paths, progress=partial(report, "indexing"))
        searches = []
        for number, query in enumerate(collection.queries):
            searches.append(_search(engine, query, collection, folder, seed))
            report("searching and drawing", number + 1, len(collection.queries))
    return DemoReport(folder / "engine", len(paths), tuple(searches))


def _clear(folder: Path) -> None:
    """Remove what an earlier demo left, and nothing else."""
    engine, collection = folder / "engine", folder / "collection"
    if engine.exists() and not (engine / MANIFEST).is_file():
        raise FormatError(f"{engine}: is not an engine of an earlier demo; choose another folder with --out")
    if collection.exists() and not engine.exists():
        raise FormatError(f"{collection}: was not left by an earlier demo; choose another folder with --out")
    for path in (collection, engine):  # the engine last: it marks the collection as ours
        if path.exists():
            shutil.rmtree(path)


def _search(engine: Engine, query: Photo, collection: Collection, folder: Path, seed: int) -> DemoSearch:
    shows: dict[str, str | None] = {photo.path.name: photo.place for photo in collection.gallery}
    result = engine.search(query.path, top_k=_HITS, seed=seed)
    assert result.features is not None
    pictures = [folder / f"{kind}_{query.place}.png" for kind in ("matches", "ranking", "attention")]
    right = [hit for hit in result if shows[hit.id] == query.place and hit.verification is not None]
    if right:
        hit = right[len(right) // 2]  # neither the easiest nor the hardest
        assert hit.verification is not None
        found = result.features, engine.get(hit.id), hit.verification
        save_matches(pictures[0], query.path, engine.path_of(hit.id), *found, labels=("query", hit.id))
    counts = ["not verified" if hit.inliers is None else f"{hit.inliers} inliers" for hit in result]
    sheet = draw_ranking(
        query.path,
        [engine.path_of(hit.id) for hit in result],
        [f"{hit.rank}. {Path(hit.id).stem}\n{count}" for hit, count in zip(result, counts, strict=True)],
        verdicts=[hit.verdict for hit in result],
        query_caption=f"query: {query.place}",
    )
    save_figure(sheet, pictures[1])
    score_map = engine.extractor.attention_map(query.path)
    save_figure(draw_attention(query.path, score_map, title="attention"), pictures[2])
    written = tuple(path for path in pictures if path != pictures[0] or right)
    return DemoSearch(query, result, shows, written)
