"""Views of all photographs as conv3 maps of the frozen stem, computed once, and pairs drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from delf_engine.errors import DataError, ImageError
from delf_engine.images import load_image
from delf_engine.model.backbones import Trunk
from delf_engine.model.network import normalise_images
from delf_engine.training.config import ViewsConfig
from delf_engine.training.views import random_view

__all__ = ["PairBatch", "ViewMaps", "conv4_maps", "draw_pairs", "render_maps"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ViewMaps:
    """Feature maps of V views of each of P photographs.

    Attributes
    ----------
    maps : (P, V, C, h, w) float16 tensor
        conv3 or conv4.
    homographies : (P, V, 3, 3) float64
        Map pixels of a photograph to pixels of its view.
    size : int
        Side of a view in pixels.
    """

    maps: Tensor
    homographies: npt.NDArray[np.float64]
    size: int

    def __len__(self) -> int:
        return len(self.maps)


@dataclass(frozen=True)
class PairBatch:
    """B pairs of views, the second of each related to the first by a homography.

    Attributes
    ----------
    first, second : (B, C, h, w) float32 tensor
    homographies : (B, 3, 3) float64
        Map pixels of the first view to pixels of the second.
    """

    first: Tensor
    second: Tensor
    homographies: npt.NDArray[np.float64]

    def reversed(self) -> PairBatch:
        """Return the same pairs, second to first."""
        inverse = np.asarray(np.linalg.inv(self.homographies), dtype=np.float64)
        return PairBatch(self.second, self.first, inverse)


def render_maps(
    photos: Sequence[str],
    trunk: Trunk,
    config: ViewsConfig,
    *,
    seed: int,
    on_error: Callable[[str, ImageError], None],
    progress: Progress | None = None,
    workers: int = 2,
) -> ViewMaps:
    """Render the views of all photographs and run the stem over them.

    Each view's random numbers come from (seed, photograph, view), so that order and workers do not matter.

    Raises
    ------
    DataError
        If fewer than two photographs can be read.
    """
    maps: list[Tensor] = []
    homographies: list[npt.NDArray[np.float64]] = []

    def render(index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
        photo = load_image(photos[index])
        pairs = [random_view(photo, config, np.random.default_rng((seed, index, v))) for v in range(config.count)]
        return np.stack([view for view, _ in pairs]), np.stack([h for _, h in pairs])

    with ThreadPoolExecutor(workers) as pool, torch.inference_mode():
        for start in range(0, len(photos), 16):
            for index, job in [(i, pool.submit(render, i)) for i in range(start, min(start + 16, len(photos)))]:
                try:
                    views, h = job.result()
                except ImageError as error:
                    on_error(photos[index], error)
                    continue
                images = normalise_images(torch.from_numpy(views))
                maps.append(trunk.stem(images).to(torch.float16))
                homographies.append(h)
            if progress:
                progress(min(start + 16, len(photos)), len(photos))
    if len(maps) < 2:
        raise DataError(f"training needs at least 2 readable photographs; {len(maps)} of {len(photos)} are")
    return ViewMaps(torch.stack(maps), np.stack(homographies), config.size)


def conv4_maps(conv3: ViewMaps, trunk: Trunk, *, batch: int = 8) -> ViewMaps:
    """Run conv4 over cached conv3 maps."""
    out = []
    with torch.inference_mode():
        for part in conv3.maps.split(batch):
            flat = part.flatten(0, 1).float().contiguous(memory_format=torch.channels_last)
            out.append(trunk.last(flat).to(torch.float16).unflatten(0, part.shape[:2]))
    return ViewMaps(torch.cat(out), conv3.homographies, conv3.size)


def draw_pairs(views: ViewMaps, *, pairs: int, steps: int, rng: np.random.Generator) -> Iterator[PairBatch]:
    """Draw batches of pairs of views; photographs of a batch differ, and all come before one comes again."""
    pairs = min(pairs, len(views))
    queue = np.empty(0, np.int64)
    for _ in range(steps):
        if len(queue) < pairs:
            queue = rng.permutation(len(views))
        chosen, queue = queue[:pairs], queue[pairs:]
        order = rng.permuted(np.tile(np.arange(views.maps.shape[1]), (pairs, 1)), axis=1)
        first, second = order[:, 0], order[:, 1]
        h = views.homographies[chosen, second] @ np.linalg.inv(views.homographies[chosen, first])
        photo = torch.from_numpy(chosen)
        yield PairBatch(
            views.maps[photo, torch.from_numpy(first)].float(),
            views.maps[photo, torch.from_numpy(second)].float(),
            h / h[:, 2:, 2:],
        )
