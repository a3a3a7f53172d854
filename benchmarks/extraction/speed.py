"""What the extractor costs beside the network itself, and beside an extractor as it is usually written.

    python -m benchmarks.extraction.speed [--model delf-r18 ...] [--photos DIR] [--rounds 5]

On the same photographs in turn, JPEG files of 1024 x 768 pixels:

"network": the bare forward pass over the same pyramid levels in the same precision, ready as tensors.
"extractor": the whole call, from file to features. "reading": decoding and resizing, a part of it.
"plain": one image at a time in eager float32, NCHW, batch norm unfolded, every cell projected before the best are
selected (`extraction/plain.py`), from file to features.

Times are medians; ratios are medians over pairs of runs one after the other. The floor is the time that the
network's arithmetic takes at the rate of a large matrix product, measured in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import options_parser, print_rows, write_json
from benchmarks.extraction.plain import PlainExtractor
from delf_engine import Extractor, LocalFeatures
from delf_engine.errors import DelfEngineWarning
from delf_engine.extraction.decoding import read_pyramid
from delf_engine.extraction.precision import Precision, has_native_bf16
from delf_engine.images import find_images, load_image

_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
_SIZE = (1024, 768)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write JSON."""
    args = _arguments(arguments)
    rows: list[dict[str, Any]] = []
    agreement: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(args.photos, Path(folder), _SIZE)
        for model in args.model:
            contest = Contest(model)
            rows += contest.timed(files, args.rounds)
            agreement[model] = {name: contest.agreement(files, name) for name in _PRECISIONS}
    native = has_native_bf16(torch.device("cpu"))
    _print(rows, native)
    _print_agreement(agreement)
    write_json(
        args.out,
        {
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "native_bf16": native,
            "photographs": len(files),
            "rounds": args.rounds,
            "rows": rows,
            "agreement_with_plain": agreement,
        },
    )


class Contest:
    """All contestants of one model."""

    def __init__(self, model: str) -> None:
        self.model = model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DelfEngineWarning)  # emulated bfloat16: the table says so
            self.extractors = {p: Extractor.from_pretrained(model, device="cpu", precision=p) for p in _PRECISIONS}
        self.plain = PlainExtractor(model, self.extractors["fp32"])

    def timed(self, files: Sequence[Path], rounds: int) -> list[dict[str, Any]]:
        """Return one row for each precision."""
        times: dict[Precision, list[dict[str, float]]] = {p: [] for p in _PRECISIONS}
        for turn in range(rounds + 1):  # the first round warms up
            for path in files:
                plain = _seconds(lambda path=path: self.plain(path))  # type: ignore[misc]
                for precision in _PRECISIONS:
                    found = {**self._turn(precision, path), "plain": plain}
                    if turn > 0:
                        times[precision].append(found)
        return [self._row(precision, found, files[0]) for precision, found in times.items()]

    def _turn(self, precision: Precision, path: Path) -> dict[str, float]:
        extractor = self.extractors[precision]
        tensors = self._tensors(extractor, path)
        with torch.inference_mode():
            network = _seconds(lambda: [extractor.network(t) for t in tensors])
        whole = _seconds(lambda: extractor(path))
        reading = _seconds(lambda: read_pyramid(path, extractor.config, stride=extractor.network.stride))
        return {"network": network, "extractor": whole, "reading": reading}

    def _row(self, precision: str, found: Sequence[dict[str, float]], path: Path) -> dict[str, Any]:
        flops = self._flops(path)
        rate = _matmul_rate(_DTYPES[precision])

        def median(of: Callable[[dict[str, float]], float]) -> float:
            return statistics.median(map(of, found))

        return {
            "model": self.model,
            "precision": precision,
            **{f"{key}_s": median(lambda t, key=key: t[key]) for key in found[0]},  # type: ignore[misc]
            "extractor_by_network": median(lambda t: t["extractor"] / t["network"]),
            "reading_share": median(lambda t: t["reading"] / t["extractor"]),
            "plain_by_extractor": median(lambda t: t["plain"] / t["extractor"]),
            "gflop": flops / 1e9,
            "matmul_gflop_per_s": rate / 1e9,
            "floor_s": flops / rate,
        }

    def _tensors(self, extractor: Extractor, path: Path) -> list[torch.Tensor]:
        pyramid = read_pyramid(path, extractor.config, stride=extractor.network.stride)
        return [extractor.network.normalise(torch.from_numpy(pixels)[None]) for pixels in pyramid.pixels]

    def _flops(self, path: Path) -> float:
        extractor = self.extractors["fp32"]
        with FlopCounterMode(display=False) as counter:
            for tensor in self._tensors(extractor, path):
                extractor.network(tensor)
        return float(counter.get_total_flops())

    def agreement(self, files: Sequence[Path], precision: Precision) -> dict[str, float]:
        """Compare the features of the plain extractor with ours, cell by cell."""
        pairs = [compared(self.plain(path), self.extractors[precision](path)) for path in files]
        cosines = np.concatenate([cosines for _, cosines in pairs])
        return {
            "same_keypoints": float(np.mean([share for share, _ in pairs])),
            "mean_cosine": float(cosines.mean()),
            "cosine_of_1_in_100": float(np.quantile(cosines, 0.01)),
            "least_cosine": float(cosines.min()),
        }


def compared(one: LocalFeatures, other: LocalFeatures) -> tuple[float, np.ndarray]:
    """Return the share of keypoints that both have, and the cosines between their descriptors."""
    places = {key: i for i, key in enumerate(_keys(one))}
    found = [(places[key], j) for j, key in enumerate(_keys(other)) if key in places]
    i, j = np.array(found).T
    cosines = np.einsum("nd,nd->n", one.descriptors[i], other.descriptors[j], dtype=np.float64)
    return len(found) / max(len(one), len(other)), cosines


def _keys(features: LocalFeatures) -> list[tuple[float, ...]]:
    rows = np.column_stack([features.keypoints, features.scales]).astype(np.float64)
    return [tuple(row) for row in rows.round(2).tolist()]


def _matmul_rate(dtype: torch.dtype, size: int = 2048, rounds: int = 5) -> float:
    """Return FLOP/s of a large matrix product, the best of some."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    a @ b
    return 2 * size**3 / min(_seconds(lambda: a @ b) for _ in range(rounds))


def _print(rows: Sequence[dict[str, Any]], native: bool) -> None:
    names = {"fp32": "fp32", "bf16": "bf16" if native else "bf16 (emulated)"}
    columns = {
        "model": "{model}",
        "precision": "{name}",
        "floor": "{floor_s:.3f}",
        "network": "{network_s:.3f}",
        "extractor": "{extractor_s:.3f}",
        "/ network": "{extractor_by_network:.2f}",
        "reading": "{reading_share:.1%}",
        "plain": "{plain_s:.3f}",
        "plain / ours": "{plain_by_extractor:.2f}",
    }
    title = f"{_SIZE[0]} x {_SIZE[1]} JPEG, {torch.get_num_threads()} threads, seconds a photograph"
    print_rows(title, [{**row, "name": names[row["precision"]]} for row in rows], columns)


def _print_agreement(agreement: dict[str, Any]) -> None:
    rows = [
        {"model": model, "precision": precision, **found}
        for model, by_precision in agreement.items()
        for precision, found in by_precision.items()
    ]
    columns = {
        "model": "{model}",
        "precision": "{precision}",
        "same keypoints": "{same_keypoints:.5f}",
        "mean cosine": "{mean_cosine:.5f}",
        "1 in 100 below": "{cosine_of_1_in_100:.5f}",
        "least": "{least_cosine:.5f}",
    }
    print_rows("agreement with the plain extractor", rows, columns)


def photographs(folder: Path | None, out: Path, size: tuple[int, int]) -> list[Path]:
    """Write up to eight JPEG files of one size."""
    if folder is None:
        from sklearn.datasets import load_sample_images

        images = [np.asarray(image) for image in load_sample_images().images]
    else:
        images = [load_image(path) for path in find_images([folder])[:8]]
    files = []
    for i, image in enumerate(images):
        path = out / f"{size[0]}x{size[1]}_{i}.jpg"
        Image.fromarray(image).resize(size).save(path, quality=90)
        files.append(path)
    return files


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out/extraction.json")
    parser.add_argument("--photos", type=Path, help="folder to take photographs from; default: scikit-learn's two")
    parser.add_argument("--model", nargs="+", default=["delf-r18"], help="names or paths of checkpoints")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
