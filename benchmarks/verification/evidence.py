"""What verification finds of pairs of pictures, coarse and fine, kept between runs.

A picture is a photograph of the data folder as a person may have it: a part of it, shrunk, turned, framed.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

import delf_engine.extraction
import delf_engine.matching
import delf_engine.verification
from benchmarks.common import cached_features
from benchmarks.systems import System
from benchmarks.verification.overlays import OVERLAYS
from delf_engine import LocalFeatures, Verification
from delf_engine.extraction.fine import FINE_DIM, fine_features
from delf_engine.images import Box, load_image
from delf_engine.storage import FeatureStore
from delf_engine.verification.verify import PairVerifier, confirmed

__all__ = ["Evidence", "Picture"]

Pixels = npt.NDArray[np.uint8]
Names = tuple[str, str]

_FINE_IN_MEMORY = 600  # records, of about 2 MB


@dataclass(frozen=True)
class Picture:
    """A photograph of the data folder, and what was done to it, in this order.

    Attributes
    ----------
    file : str
        Below the data folder; ``made/KIND NUMBER`` is one without a photograph, see `made`.
    longest : int or None
        Its longer side is shrunk or enlarged to so many pixels.
    turns : int
        Quarter turns, counterclockwise.
    overlay : str or None
        A name of `OVERLAYS`.
    box : x0, y0, x1, y1 or None
        The part that is asked about.
    """

    file: str
    longest: int | None = None
    turns: int = 0
    overlay: str | None = None
    box: Box | None = None

    @property
    def id(self) -> str:
        """All of it, as text."""
        done = (self.longest, self.turns or None, self.overlay, self.box)
        named = zip(("px", "turns", "in", "box"), done, strict=True)
        return " ".join([self.file, *(f"{name} {value}" for name, value in named if value is not None)])

    def source(self, data: Path) -> Path | Pixels:
        """Return the file if nothing was done to it, else pixels."""
        if not (self.longest or self.turns or self.overlay or self.file.startswith("made/")):
            return data / self.file
        pixels = made(self.file) if self.file.startswith("made/") else load_image(data / self.file)
        if self.longest:
            scale = self.longest / max(pixels.shape[:2])
            size = tuple(max(1, round(side * scale)) for side in pixels.shape[1::-1])
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
            pixels = np.asarray(cv2.resize(pixels, size, interpolation=how), np.uint8)
        pixels = np.ascontiguousarray(np.rot90(pixels, self.turns))
        return OVERLAYS[self.overlay](pixels) if self.overlay else pixels


def made(name: str) -> Pixels:
    """Return nothing, (384, 512, 3) uint8: ``made/blank 255``, ``made/gradient 1``, ``made/noise 1``."""
    kind, _, number = name.removeprefix("made/").partition(" ")
    across, down = np.meshgrid(np.linspace(0, 1, 512), np.linspace(0, 1, 384))
    rng = np.random.default_rng(int(number))
    if kind == "blank":
        grey = np.full((384, 512, 1), float(number))
    elif kind == "gradient":
        a, b = rng.uniform(-1, 1, 2)
        slope = a * across + b * down
        grey = (255 * (slope - slope.min()) / np.ptp(slope))[..., None]
    else:
        grey = rng.normal(128, (4, 20, 60)[int(number) % 3], (384, 512, 3))
    return np.asarray(np.clip(np.broadcast_to(grey, (384, 512, 3)), 0, 255).astype(np.uint8))


class Evidence:
    """Extracts pictures and verifies pairs of them by one system, each only once.

    Parameters
    ----------
    system : System
    data, cache : Path
        Folder of photographs, and of what is kept between runs: verifications until options or code change.
    workers : int
        Threads.

    Attributes
    ----------
    key : str
        Of all that verifications depend on: the system, its options, the code.
    """

    def __init__(self, system: System, data: Path, cache: Path, *, workers: int = 2) -> None:
        self.system, self.data, self._cache, self._workers = system, data, cache, workers
        self.pictures: dict[str, Picture] = {}
        self._coarse: dict[str, LocalFeatures] = {}
        profile = system.profile
        extraction, *rooms = (
            Path(str(room.__file__)).parent
            for room in (delf_engine.extraction, delf_engine.matching, delf_engine.verification)
        )
        made_by = [extraction / "fine.py", extraction / "content.py"]
        self._fine_identity = f"fine {profile.fine.model_dump_json()} {_digest(made_by)}"
        code = [path for room in rooms for path in room.glob("*.py") if not path.name.startswith(("cal", "cur"))]
        options = (profile.verification, profile.fine, profile.ranking)
        said = " ".join([system.identity, self._fine_identity, *(each.model_dump_json() for each in options)])
        self.key = hashlib.sha256(f"{said} {_digest(code)}".encode()).hexdigest()[:16]

    def coarse(self, ids: Iterable[str]) -> Mapping[str, LocalFeatures]:
        """Return coarse features of at least these pictures, which `pictures` must know."""
        items = {i: partial(self._extracted, i) for i in dict.fromkeys(ids) if i not in self._coarse}
        identity = f"{self.system.identity} pictures"
        if items:
            self._coarse |= cached_features(self._cache, identity, self.system.dim, items, title="coarse features")
        return self._coarse

    def verified(self, what: str, pairs: Sequence[Names], *, fine: bool = False) -> list[Verification]:
        """Return the verification of each pair, with fine evidence if asked; `what` names the file it is in."""
        found = self._kept(f"coarse {what}", pairs, self._verify)
        if not fine:
            return found
        details = self._kept(f"fine {what}", pairs, partial(self._confirm, dict(zip(pairs, found, strict=True))))
        return [replace(v, fine=d) for v, d in zip(found, details, strict=True)]

    def copies(self, what: str, pairs: Sequence[Names]) -> npt.NDArray[np.float64]:
        """Return what share of the fine features of the poorer picture of each pair agrees on one plane, (P,)."""
        fine = [v.fine for v in self.verified(what, pairs, fine=True)]
        with self._fine_store(sorted({name for pair in pairs for name in pair})) as store:
            numbers = {name: len(store.get(name)) for name in sorted({n for pair in pairs for n in pair})}
        fewer = [max(1, min(numbers[a], numbers[b])) for a, b in pairs]
        return np.array([f.planar / n for f, n in zip(fine, fewer, strict=True) if f is not None])

    def _extracted(self, name: str) -> LocalFeatures:
        picture = self.pictures[name]
        return self.system.extract(picture.source(self.data), box=picture.box)

    def _fine_store(self, ids: Sequence[str]) -> FeatureStore:
        """Return a store that holds the fine features of these pictures, extracted where they were missing."""

        def extracted(name: str) -> LocalFeatures:
            picture = self.pictures[name]
            source = picture.source(self.data)
            return fine_features(source, config=self.system.profile.fine, box=picture.box)

        folder = self._cache / hashlib.sha256(self._fine_identity.encode()).hexdigest()[:16]
        if not (folder / "data.mdb").is_file():
            FeatureStore.create(folder, dim=FINE_DIM, codec="uint8", model=self._fine_identity).close()
        with FeatureStore.open(folder, readonly=True) as store:
            missing = [name for name in ids if name not in store]
        if missing:
            with FeatureStore.open(folder) as store:
                for name in track(missing, "fine features", console=Console(stderr=True)):
                    store.put(name, extracted(name))
        return FeatureStore.open(folder, readonly=True)

    def _kept(self, what: str, pairs: Sequence[Names], work: Callable[[list[Names]], list[Any]]) -> list[Any]:
        path = self._cache / f"evidence-{self.key}" / f"{what}.pickle"
        kept = pickle.loads(path.read_bytes()) if path.is_file() else {}  # noqa: S301 - our own
        missing = sorted(pair for pair in dict.fromkeys(pairs) if pair not in kept)
        if missing:
            kept |= dict(zip(missing, work(missing), strict=True))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pickle.dumps(kept))
        return [kept[pair] for pair in pairs]

    def _verify(self, pairs: list[Names]) -> list[Verification]:
        features = self.coarse(name for pair in pairs for name in pair)
        profile = self.system.profile

        def row(group: list[Names]) -> list[Verification]:
            verify = PairVerifier(
                features[group[0][0]], config=profile.verification, exponent=profile.ranking.exponent
            )
            return [replace(verify(features[b]), transform=None) for _, b in group]

        return self._threaded(
            row, [list(group) for _, group in groupby(pairs, key=lambda pair: pair[0])], "coarse"
        )

    def _confirm(self, found: Mapping[Names, Verification], pairs: list[Names]) -> list[Any]:
        names = sorted({name for pair in pairs for name in pair})
        with self._fine_store(names) as store:
            get = lru_cache(_FINE_IN_MEMORY)(store.get)

            def row(chunk: list[Names]) -> list[Any]:
                config = self.system.profile.fine
                return [confirmed(found[pair], get(pair[0]), get(pair[1]), config=config).fine for pair in chunk]

            return self._threaded(row, [pairs[i : i + 20] for i in range(0, len(pairs), 20)], "fine")

    def _threaded(
        self, row: Callable[[list[Names]], list[Any]], groups: list[list[Names]], what: str
    ) -> list[Any]:
        with ThreadPoolExecutor(self._workers) as pool:
            progress = track(
                pool.map(row, groups), f"{what} evidence", total=len(groups), console=Console(stderr=True)
            )
            return [each for rows in progress for each in rows]


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
