"""Pooled vectors of pictures by every method, kept between runs, for `benchmarks.index.global_search`."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import track

from benchmarks.verification.evidence import Picture
from delf_engine import Extractor
from delf_engine.model import pooling as methods
from delf_engine.model.global_head import GlobalHead

__all__ = ["CENTRES", "LEVELS", "Pooled", "heads"]

Vectors = npt.NDArray[np.float32]

#: How many levels of the pyramid are pooled: the largest alone, or all.
LEVELS: Mapping[str, int | None] = {"one": 1, "all": None}
#: Visual words of NetVLAD and MOP, parts of PWA.
CENTRES, _PARTS = 32, 8
_SHARPNESS = 10.0  # of NetVLAD's assignment, before any training
_PROJECTED = ("covariance", "netvlad", "mop")  # pool descriptors: of the trunk's channels they would be too long
_SAMPLE, _CELLS = 200, 100  # photographs and cells of each that centres and parts come from


class Pooled:
    """Vectors of pictures by one checkpoint.

    Parameters
    ----------
    extractor : Extractor
    data, cache : Path
        Folder of photographs, and of what is kept.
    fitted : sequence of Picture
        That words and parts are taken from; not measured.
    """

    def __init__(self, extractor: Extractor, data: Path, cache: Path, fitted: Sequence[Picture]) -> None:
        self.extractor, self.data = extractor, data
        assert extractor.info is not None
        code = Path(methods.__file__).read_bytes() + Path(__file__).read_bytes()
        said = f"{extractor.info.identity} {extractor.config.model_dump_json()}".encode()
        self._file = cache / f"pooled-{hashlib.sha256(said + code).hexdigest()[:16]}"
        self._file.mkdir(parents=True, exist_ok=True)
        parameters = self._file / "parameters.pickle"
        if not parameters.is_file():
            parameters.write_bytes(pickle.dumps(self._parameters(fitted)))
        self._heads = heads(pickle.loads(parameters.read_bytes()))  # noqa: S301 - written here
        self.known: dict[str, dict[str, Vectors]] = {}

    def vectors(self, pictures: Mapping[str, Picture]) -> dict[str, Vectors]:
        """Return by method, and how many levels it pools, the (N, K) vectors of pictures, at unit length."""
        missing = [name for name in pictures if name not in self.known]
        for name in track(missing, description="pooled vectors", disable=not missing):
            path = self._file / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.npz"
            if path.is_file():
                with np.load(path) as file:
                    self.known[name] = {key: file[key].astype(np.float32) for key in file.files}
                continue
            found = self._of(pictures[name])
            temporary = path.with_suffix(".tmp.npz")
            arrays: dict[str, Any] = {key: value.astype(np.float16) for key, value in found.items()}
            np.savez(temporary, **arrays)
            temporary.replace(path)
            self.known[name] = found
        names = list(pictures)
        return {key: np.stack([self.known[name][key] for name in names]) for key in self.known[names[0]]}

    def _of(self, picture: Picture) -> dict[str, Vectors]:
        maps, projected, mirrored = self._maps(picture)
        out = {}
        for name, head in self._heads.items():
            out[name] = head.pooled(projected if name.split()[0] in _PROJECTED else maps).astype(np.float32)
        both = out["gem all"] + self._heads["gem all"].pooled(mirrored)
        out["gem all, mirrored"] = (both / max(float(np.linalg.norm(both)), 1e-12)).astype(np.float32)
        return out

    def _maps(self, picture: Picture) -> tuple[Any, Any, Any]:
        import torch

        extractor = self.extractor
        pyramid = extractor._prepare(picture.source(self.data), picture.box)
        maps = [(one.features, one.scores) for one in extractor._maps(pyramid)]
        flipped = [np.ascontiguousarray(pixels[None, :, ::-1]) for pixels in pyramid.pixels]
        mirrored = [(one.features, one.scores) for level in flipped for one in extractor.runtime.forward(level)]
        with torch.inference_mode():
            projected = [(extractor.network.projection(features), scores) for features, scores in maps]
        return maps, projected, mirrored

    def _parameters(self, fitted: Sequence[Picture]) -> dict[str, dict[str, Any]]:
        """Return words of descriptors, and the channels whose maxima vary most."""
        import faiss

        rng, maxima, cells = np.random.default_rng(0), [], []
        for picture in track(fitted[:: max(1, len(fitted) // _SAMPLE)], description="words and parts"):
            maps, projected, _ = self._maps(picture)
            if maps:
                maxima.append(np.max([features.numpy().max(0) for features, _ in maps], axis=0))
                every = np.concatenate([features.numpy() for features, _ in projected])
                cells.append(every[rng.integers(0, len(every), _CELLS)])
        kmeans = faiss.Kmeans(cells[0].shape[1], CENTRES, niter=20, seed=1)
        kmeans.train(np.concatenate(cells))
        centres = np.asarray(kmeans.centroids)
        return {
            "gem": {"p": np.array(3.0, np.float32)},
            "pwa": {"channels": np.argsort(-np.var(maxima, axis=0), kind="stable")[:_PARTS]},
            "netvlad": {"centres": centres, "sharpness": np.array(_SHARPNESS, np.float32)},
            "mop": {"centres": centres},
        }


def heads(parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, GlobalHead]:
    """Return a head that does not whiten for each method and number of levels."""
    nothing = np.zeros(1, np.float32), np.ones((1, 1), np.float32)  # as many components as the method gives
    return {
        f"{name} {levels}": GlobalHead(name, *nothing, parameters.get(name, {}), number)
        for name in methods.POOLINGS
        for levels, number in LEVELS.items()
    }
