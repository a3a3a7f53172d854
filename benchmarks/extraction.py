"""What the extractor costs beside the network itself, in float32 and in bfloat16, on the same photographs in turn.

    python benchmarks/extraction_overhead.py [--model delf-r18 ...] [--photos DIR] [--rounds 5]

"network" is the bare forward pass over the same pyramid levels in the same precision, ready as tensors.
"extractor" is the whole call, from a JPEG file of 1024 x 768 pixels to features: decoding, resizing, network,
selection, projection, checks. Times are medians; the ratio is the median over pairs of runs one after the other.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from common import print_table, write_json
from PIL import Image

from delf_engine import Extractor
from delf_engine.errors import DelfEngineWarning
from delf_engine.extraction.precision import has_native_bf16
from delf_engine.images import find_images, load_image
from delf_engine.pyramid import plan_levels, resize

_PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
_SIZE = (1024, 768)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder to take photographs from; default: scikit-learn's two")
    parser.add_argument("--model", nargs="+", default=["delf-r18"], help="names or paths of checkpoints")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out/extraction_overhead.json"))
    args = parser.parse_args(arguments)
    native = has_native_bf16(torch.device("cpu"))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = _photographs(args.photos, Path(folder))
        for model in args.model:
            rows += _measured(model, files, args.rounds)
    names = {"fp32": "fp32", "bf16": "bf16" if native else "bf16 (emulated)"}
    table = [
        [r["model"], names[r["precision"]], *(f"{r[k]:.3f}" for k in ("network_s", "extractor_s", "ratio"))]
        for r in rows
    ]
    title = f"{_SIZE[0]} x {_SIZE[1]} JPEG, {torch.get_num_threads()} threads, seconds a photograph"
    print_table(title, ["model", "precision", "network", "extractor", "ratio"], table)
    write_json(
        args.out,
        {
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "native_bf16": native,
            "photographs": len(files),
            "rounds": args.rounds,
            "rows": rows,
        },
    )


def _measured(model: str, files: list[Path], rounds: int) -> list[dict[str, Any]]:
    """Return one row for each precision of a model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DelfEngineWarning)  # emulated bfloat16: the table says so
        extractors = {p: Extractor.from_pretrained(model, device="cpu", precision=p) for p in _PRECISIONS}
    times: dict[str, list[tuple[float, float]]] = {p: [] for p in _PRECISIONS}
    for turn in range(rounds + 1):  # the first round warms up
        for path in files:
            for precision, extractor in extractors.items():
                pair = _pair(extractor, path)
                if turn > 0:
                    times[precision].append(pair)
    return [
        {
            "model": model,
            "precision": precision,
            "network_s": statistics.median(network for network, _ in pairs),
            "extractor_s": statistics.median(whole for _, whole in pairs),
            "ratio": statistics.median(whole / network for network, whole in pairs),
        }
        for precision, pairs in times.items()
    ]


def _pair(extractor: Extractor, path: Path) -> tuple[float, float]:
    """Return the seconds of the bare network and of the extractor on one photograph."""
    tensors = _levels(extractor, path)
    with torch.inference_mode():
        network = _timed(lambda: [extractor.network(t) for t in tensors])
    return network, _timed(lambda: extractor(path))


def _photographs(folder: Path | None, out: Path) -> list[Path]:
    """Write up to eight JPEG files of 1024 x 768 pixels."""
    if folder is None:
        from sklearn.datasets import load_sample_images

        images = [np.asarray(image) for image in load_sample_images().images]
    else:
        images = [load_image(path) for path in find_images([folder])[:8]]
    files = []
    for i, image in enumerate(images):
        path = out / f"{i}.jpg"
        Image.fromarray(image).resize(_SIZE).save(path, quality=90)
        files.append(path)
    return files


def _levels(extractor: Extractor, path: Path) -> list[torch.Tensor]:
    image = load_image(path)
    config = extractor.config
    levels = plan_levels(
        (image.shape[1], image.shape[0]),
        config.scales,
        max_image_size=config.max_image_size,
        min_side=config.min_side,
        fill_scales=config.fill_scales,
        fill_to=config.max_features,
        stride=extractor.network.stride,
    )
    resized = [resize(image, level.width, level.height, config.resize) for level in levels]
    return [extractor.network.normalise(torch.from_numpy(pixels)[None]) for pixels in resized]


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
