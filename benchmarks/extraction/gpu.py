"""Extraction on a card, from JPEG files to stored features, beside the bare network; at most four minutes.

    python -m benchmarks.extraction.gpu [--device cuda] [--model delf-r18 delf-r50] [--photos DIR] [--seconds 4]

The same photographs as JPEG files of 1024 x 683 pixels, over and over; throughput is measured for `--seconds`.

"stored": `extract_many` as it comes, features written to a store by a thread of its own; of files of one size, and
of four sizes in turn. "bare": the forward pass over the same levels, ready on the device, at batch 1, 8 and 32.
"single": one call, from a file and from pixels, and how many times the bare network at batch 1 it takes; the same
without CUDA graphs. "graphs": how many were kept, and how many captures failed (a warning says why).
Shares: seconds of each step alone, over those of all; in use they overlap. "resize" has the mask of texture.
"ceiling": images a second if decoding, on all cores, and the device were the only ones to wait for.
"agreement": keypoints that the CPU finds as well, in float32 and as computed here.

`--device cpu --small` tries the script, not a card: small photographs, the same way through torch.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import card_of, options_parser, print_rows, timed, write_json
from benchmarks.extraction.speed import compared, photographs
from delf_engine import Extractor, FeatureStore
from delf_engine.errors import DelfEngineWarning
from delf_engine.extraction.graphs import GraphedNetwork
from delf_engine.extraction.on_device import DeviceExtraction
from delf_engine.extraction.resampling import resized, textured_cells
from delf_engine.extraction.runtime import fetched
from delf_engine.images import load_image
from delf_engine.model.device import choose_device
from delf_engine.support.threads import usable_cores

_SIZES = ((1024, 683), (683, 1024), (1024, 768), (768, 1024))
_BATCHES = (1, 8, 32)
_AGREEING = 8  # photographs that the CPU extracts, too
_COMMIT = 64  # photographs a transaction


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write JSON."""
    args = _arguments(arguments)
    device = choose_device(args.device)
    card = card_of(device)
    print(", ".join(f"{key} {value}" for key, value in card.items()))
    rows, agreement = [], []
    with tempfile.TemporaryDirectory() as folder:
        part = 4 if args.small else 1
        files = [photographs(args.photos, Path(folder), (wide // part, high // part)) for wide, high in _SIZES]
        for model in args.model:
            rows.append(Measured(model, device, args).row(files))
            agreement += _agreements(model, device, list(itertools.chain(*files))[:_AGREEING])
            _print(rows, agreement)  # what is measured stays if the next one fails
            write_json(args.out, {**card, "small": args.small, "rows": rows, "agreement_with_cpu": agreement})


class Measured:
    """One checkpoint on one device."""

    def __init__(self, model: str, device: torch.device, args: argparse.Namespace) -> None:
        self.model, self.device = model, device
        self.seconds, self.batches = args.seconds, (1, 2) if args.small else _BATCHES
        self.extractor, self.ids = _extractor(model, device), itertools.count()
        way = self.extractor._on_device
        assert way is not None
        self.way: DeviceExtraction = way

    def row(self, files: Sequence[Sequence[Path]]) -> dict[str, Any]:
        """Return all figures; `files` are those of each size."""
        first, batch = files[0][0], max(self.batches)
        mixed = [path for turn in zip(*files, strict=True) for path in turn]
        bare = {size: self._rate(self._bare(first, size), size) for size in self.batches}
        calls = {"file": partial(self.extractor, first), "pixels": partial(self.extractor, load_image(first))}
        single = {kind: self._rate(call) for kind, call in calls.items()}
        by = self.way._network
        graphs = (len(by._graphs), by._failures) if isinstance(by, GraphedNetwork) else (0, 0)
        with patch.object(self.way, "_network", self.extractor.network):
            layers = {kind: self._rate(call) for kind, call in calls.items()}
        steps = self._steps(list(itertools.islice(itertools.cycle(files[0]), batch)))
        on_device = sum(seconds for name, seconds in steps.items() if name not in ("decode", "store"))
        return {
            "model": self.model,
            "precision": self.extractor.precision,
            "batch": batch,
            "stored_a_second": self._stored(files[0], batch),
            "stored_a_second_mixed": self._stored(mixed, batch),
            "ceiling_a_second": 1 / max(steps["decode"], on_device),
            "bare_a_second": bare,
            "single_a_second": single,
            "single_by_bare": {kind: bare[1] / rate for kind, rate in single.items()},
            "single_a_second_without_graphs": layers,
            "single_by_bare_without_graphs": {kind: bare[1] / rate for kind, rate in layers.items()},
            "graphs": dict(zip(("captured", "failures"), graphs, strict=True)),
            "step_ms": {name: 1e3 * seconds for name, seconds in steps.items()},
            "step_share": {name: seconds / sum(steps.values()) for name, seconds in steps.items()},
        }

    def _stored(self, files: Sequence[Path], batch: int) -> float:
        """Return images a second from files to a committed store."""
        with self._store() as store, ThreadPoolExecutor(1) as writer:

            def fill(paths: Iterator[Path]) -> int:
                jobs, count = [], 0
                stream = self.extractor.extract_many(paths, batch=batch)
                while kept := [(str(next(self.ids)), one) for _, one in itertools.islice(stream, _COMMIT)]:
                    jobs.append(writer.submit(store.put_many, kept))
                    count += len(kept)
                for job in jobs:
                    job.result()
                return count

            endless = itertools.cycle(files)
            fill(itertools.islice(endless, 4 * batch))  # warm
            end = time.perf_counter() + self.seconds
            seconds, count = timed(lambda: fill(itertools.takewhile(lambda _: time.perf_counter() < end, endless)))
            return count / seconds

    @contextmanager
    def _store(self) -> Iterator[FeatureStore]:
        with (
            tempfile.TemporaryDirectory() as folder,
            FeatureStore.create(folder, dim=self.extractor.dim, model=self.model) as store,
        ):
            yield store

    def _bare(self, path: Path, size: int) -> Callable[[], object]:
        network, levels = self.extractor.network, self._levels(self._sources([path] * size))
        tensors = [network.normalise(level) for level in levels]
        return lambda: [network(x) for x in tensors]

    def _sources(self, paths: Sequence[Path]) -> list[Tensor]:
        self.read = [self.way.read(path) for path in paths]
        return list(self.way._uploaded(self.read))

    def _levels(self, sources: Sequence[Tensor]) -> list[Tensor]:
        method = self.extractor.config.resize
        shapes = self.read[0].shapes
        return [torch.cat([resized(x, width, height, method) for x in sources]) for width, height in shapes]

    def _textured(self, level: Tensor) -> Tensor:
        stride, offset = self.extractor.network.stride, self.extractor.network.offset
        return textured_cells(level, stride, 3 * stride, self.extractor.config.min_contrast, offset)

    def _steps(self, paths: Sequence[Path]) -> dict[str, float]:
        """Return seconds an image of each step, alone, on a batch of files of one size."""
        size, sources = len(paths), self._sources(paths)
        read, levels = self.read, self._levels(sources)
        features = self.way.begin(read, self.extractor.global_head)()
        rows = torch.zeros(size, len(features[0]) * (self.extractor.dim + 2), device=self.device)

        with ThreadPoolExecutor(usable_cores()) as pool, self._store() as store:
            work: dict[str, Callable[[], object]] = {
                "decode": lambda: list(pool.map(self.way.read, paths)),
                "transfer": lambda: list(self.way._uploaded(read)),
                "resize": lambda: list(map(self._textured, self._levels(sources))),
                "network": lambda: [self.way._network.maps(level) for level in levels],
                "transfer back": lambda: fetched(rows)(),
                "store": lambda: store.put_many((str(next(self.ids)), one) for one in features),
            }
            found = {name: 1 / self._rate(each, size, part=0.25) for name, each in work.items()}
        whole = 1 / self._rate(lambda: self.way.begin(read, self.extractor.global_head)(), size, part=0.5)
        inside = ("transfer", "resize", "network", "transfer back")
        found["select, describe, pool"] = max(0.0, whole - sum(found[name] for name in inside))
        return found

    @torch.inference_mode()
    def _rate(self, work: Callable[[], object], images: int = 1, part: float = 0.5) -> float:
        """Return images a second of calls that the device is waited for after each."""
        for _ in range(4):  # warm, graphs captured
            work()
        self._wait()
        start, calls = time.perf_counter(), 0
        while calls == 0 or time.perf_counter() < start + part * self.seconds:
            work()
            self._wait()
            calls += 1
        return images * calls / (time.perf_counter() - start)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _extractor(model: str, device: torch.device, precision: Any = None) -> Extractor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DelfEngineWarning)  # emulated bfloat16
        found = Extractor.from_pretrained(model, device=str(device), precision=precision)
    found._extract_on_device()
    return found


def _agreements(model: str, device: torch.device, files: Sequence[Path]) -> list[dict[str, Any]]:
    reference = Extractor.from_pretrained(model, device="cpu", precision="fp32")
    wanted = [reference(path) for path in files]
    rows = []
    for precision in dict.fromkeys(("fp32", _extractor(model, device).precision)):
        extractor = _extractor(model, device, precision)
        found = [one for _, one in extractor.extract_many(files)]
        again = [one for _, one in extractor.extract_many(files)]
        pairs = [compared(a, b) for a, b in zip(wanted, found, strict=True)]
        figures = {
            "same_keypoints": float(np.mean([share for share, _ in pairs])),
            "least_cosine": float(min(cosines.min() for _, cosines in pairs)),
            "same_bits_again": found == again,
        }
        rows.append({"model": model, "precision": precision, **figures})
    return rows


def _print(rows: Sequence[Mapping[str, Any]], agreement: Sequence[Mapping[str, Any]]) -> None:
    name = {"model": "{model}", "precision": "{precision}"}
    rates = {
        "stored": "{stored_a_second:.0f}",
        "mixed sizes": "{stored_a_second_mixed:.0f}",
        "ceiling": "{ceiling_a_second:.0f}",
        **{f"bare, batch {size}": f"{{bare_a_second[{size}]:.0f}}" for size in rows[0]["bare_a_second"]},
        **{f"single {kind}": f"{{single_a_second[{kind}]:.0f}}" for kind in ("file", "pixels")},
        **{f"{kind} / bare": f"{{single_by_bare[{kind}]:.2f}}" for kind in ("file", "pixels")},
        **{
            f"{kind} without graphs": f"{{single_a_second_without_graphs[{kind}]:.0f}}"
            for kind in ("file", "pixels")
        },
        "graphs": "{graphs[captured]}",
        "failures": "{graphs[failures]}",
    }
    print_rows("images a second", rows, {**name, **rates})
    steps = {step: f"{{step_ms[{step}]:.3f}} ({{step_share[{step}]:.0%}})" for step in rows[0]["step_ms"]}
    print_rows("milliseconds an image, each step alone", rows, {**name, **steps})
    agreeing = {"same keypoints": "{same_keypoints:.4f}", "least cosine": "{least_cosine:.5f}"}
    columns = {**name, **agreeing, "same bits again": "{same_bits_again}"}
    print_rows("agreement with the CPU in float32", agreement, columns)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out/extraction_gpu.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--photos", type=Path, help="folder to take photographs from; default: scikit-learn's two")
    parser.add_argument("--model", nargs="+", default=["delf-r18", "delf-r50"], help="names or paths")
    parser.add_argument("--seconds", type=float, default=4.0, help="that throughput is measured for")
    parser.add_argument("--small", action="store_true", help="photographs of a quarter of the size, batches of 2")
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
