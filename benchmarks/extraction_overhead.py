"""What the extractor costs beside the network itself: both run in turn on the same photographs.

    python benchmarks/extraction_overhead.py [--photos DIR] [--rounds 5]

"network" is the bare forward pass over the same pyramid levels, ready as tensors. "extractor" is the whole call,
from a JPEG file of 1024 x 768 pixels to features: decoding, resizing, network, selection, projection, checks.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import print_table, write_json
from PIL import Image

from delf_engine import Extractor
from delf_engine.images import find_images, load_image
from delf_engine.model.network import normalise_images
from delf_engine.pyramid import plan_levels, resize


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder to take photographs from; default: scikit-learn's two")
    parser.add_argument("--model", default="delf-r18")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out/extraction_overhead.json"))
    args = parser.parse_args()
    extractor = Extractor.from_pretrained(args.model, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        files = _photographs(args.photos, Path(folder))
        levels = [_levels(extractor, path) for path in files]
        times: dict[str, list[float]] = {"network": [], "extractor": []}
        with torch.inference_mode():
            for _ in range(args.rounds + 1):  # the first round warms up
                for path, tensors in zip(files, levels, strict=True):
                    times["network"].append(_timed(lambda: [extractor.network(t) for t in tensors]))  # noqa: B023
                    times["extractor"].append(_timed(lambda: extractor(path)))  # noqa: B023
    kept = {name: values[len(files) :] for name, values in times.items()}
    ratios = [e / n for e, n in zip(kept["extractor"], kept["network"], strict=True)]
    median = {name: statistics.median(values) for name, values in kept.items()}
    table = [[name, f"{1000 * value:.1f}"] for name, value in median.items()]
    table.append(["ratio (median of pairs)", f"{statistics.median(ratios):.3f}"])
    title = f"{args.model}, 1024 x 768 JPEG, {torch.get_num_threads()} threads, ms a photograph"
    print_table(title, ["", "median"], table)
    write_json(
        args.out, {"seconds": median, "ratio": statistics.median(ratios), "threads": torch.get_num_threads()}
    )


def _photographs(folder: Path | None, out: Path) -> list[Path]:
    """Write eight JPEG files of 1024 x 768 pixels."""
    if folder is None:
        from sklearn.datasets import load_sample_images

        images = [np.asarray(image) for image in load_sample_images().images]
    else:
        images = [load_image(path) for path in find_images([folder])[:8]]
    files = []
    for i, image in enumerate(images):
        path = out / f"{i}.jpg"
        Image.fromarray(image).resize((1024, 768)).save(path, quality=90)
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
    )
    resized = [resize(image, level.width, level.height, config.resize) for level in levels]
    return [normalise_images(torch.from_numpy(pixels)[None]) for pixels in resized]


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
