"""Extraction where the network is: pixels go to the device once a batch, and features come back once.

What `decoding`, `runtime` and `assembly` do one image and level after the other is done here for many images at
once and without waiting for the device in between. Those are the reference: on one processor in float32 at least
999 of 1,000 keypoints are the same, and scores agree to 1e-4, whatever batch an image is in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from delf_engine.config import ExtractionConfig
from delf_engine.errors import ConfigError
from delf_engine.extraction.assembly import placed
from delf_engine.extraction.decoding import Pyramid, read_pyramid
from delf_engine.extraction.resampling import resized, textured_cells
from delf_engine.extraction.runtime import TorchRuntime, fetched
from delf_engine.features import LocalFeatures
from delf_engine.images import ImageSource
from delf_engine.matching.batched import full_float32
from delf_engine.model.backbones import ResNetTrunk

if TYPE_CHECKING:
    from delf_engine.extraction.graphs import GraphedNetwork
    from delf_engine.model import GlobalHead
    from delf_engine.model.network import DelfNetwork

_PIXELS = 1 << 25  # resized together: more float32 pixels would take memory that the network needs


class DeviceExtraction:
    """Extracts batches of photographs on one device.

    Parameters
    ----------
    runtime : TorchRuntime
        The network, where it is.
    config : ExtractionConfig
    """

    def __init__(self, runtime: TorchRuntime, config: ExtractionConfig) -> None:
        self._runtime, self._config = runtime, config
        self._most: float = np.inf  # images that there was memory for
        self._network: DelfNetwork | GraphedNetwork = runtime.network
        cuda = runtime.device.type == "cuda" and not torch.version.hip  # ROCm may hang in a capture
        # What the graph of a ViT uses of cuBLAS torch may free: pytorch/pytorch#193402.
        if cuda and isinstance(runtime.network.trunk, ResNetTrunk):
            from delf_engine.extraction.graphs import CudaGraphs, GraphedNetwork

            self._network = GraphedNetwork(runtime.network, CudaGraphs(torch.cuda.Stream(runtime.device)))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_network": self._runtime.network}  # graphs stay where they were captured

    def read(self, source: ImageSource, **options: Any) -> Pyramid:
        """Return `read_pyramid`, whole, its pixels in memory that the device copies from by itself."""
        self._runtime.check_process()
        found = read_pyramid(source, self._config, stride=self._runtime.stride, whole=True, **options)
        pixels = torch.from_numpy(np.require(found.pixels[0], requirements=["C", "W"]))
        return replace(found, pixels=(pixels.pin_memory() if self._runtime.device.type == "cuda" else pixels,))

    def begin(self, images: Sequence[Pyramid], head: GlobalHead | None) -> Callable[[], list[LocalFeatures]]:
        """Set the device to work on what `read` returned; what is returned waits for the features, in order.

        A batch that the device has no memory for is halved, as later ones are at once; a `ConfigError` if it has
        none for one photograph.
        `head` makes the global descriptors.
        """
        self._runtime.check_process()
        middle, graphs = len(images) // 2, self._network is not self._runtime.network
        try:
            if len(images) <= self._most:
                return self._begun(images, head)
        except torch.cuda.OutOfMemoryError as error:
            if graphs:  # once more all of it, in their memory
                self._network, middle = self._runtime.network, 0
            elif len(images) == 1:
                height, width = images[0].pixels[0].shape[:2]
                raise ConfigError(
                    f"{self._runtime.name} has no memory left for a photograph of {width} x {height} pixels: "
                    "lower max_image_size, end what else is there, or take device='cpu'"
                ) from error
            else:
                self._most = middle
        first, second = self.begin(images[:middle], head)(), self.begin(images[middle:], head)
        return lambda: first + second()

    def _begun(self, images: Sequence[Pyramid], head: GlobalHead | None) -> Callable[[], list[LocalFeatures]]:
        filled = (i for i, image in enumerate(images) if image.levels)
        order = sorted(filled, key=lambda i: (images[i].shapes, images[i].pixels[0].shape))
        groups = [list(group) for _, group in groupby(order, lambda i: images[i].shapes)]
        with torch.inference_mode(), full_float32(self._runtime.device):
            found = [self._selected([images[i] for i in group], head) for group in groups]
            sizes = [rows.numel() for rows, _ in found]
            packed = fetched(torch.cat([rows.flatten() for rows, _ in found]) if found else torch.empty(0))

        def finish() -> list[LocalFeatures]:
            zeros = None if head is None else np.zeros(head.dim, np.float32)
            empty = LocalFeatures.empty((1, 1), self._runtime.dim)
            out = [replace(empty, image_size=one.image_size, global_descriptor=zeros) for one in images]
            for group, rows, (_, shapes) in zip(groups, packed().split(sizes), found, strict=True):
                for i, row in zip(group, rows.view(len(group), -1).numpy(), strict=True):
                    out[i] = self._unpacked(images[i], row, shapes)
            return out

        return finish

    def _selected(
        self, images: Sequence[Pyramid], head: GlobalHead | None
    ) -> tuple[Tensor, list[tuple[int, ...]]]:
        """Return what is kept of images with equal levels, one row each, and the (h, w) of the levels' maps.

        A row holds the scores of at most `max_features` cells, -inf where there are fewer, their numbers, their
        descriptors, and the global descriptor.
        """
        config, network = self._config, self._runtime.network
        sources = list(self._uploaded(images))
        maps, keys = [], []
        for level in images[0].levels:
            pixels = torch.cat([resized(x, level.width, level.height, config.resize) for x in sources])
            features, scores = self._network.maps(pixels)
            maps.append((features, scores))
            stride = network.stride
            seen = textured_cells(pixels, stride, 3 * stride, config.min_contrast, network.offset)
            seen &= scores >= config.min_score
            keys.append(torch.where(seen, scores, -torch.inf).flatten(1))
        # A stable sort, not topk: equal scores stand in the order of their cells, as on the CPU.
        ordered = torch.cat(keys, 1).sort(dim=1, descending=True, stable=True)
        values, cells = (x[:, : config.max_features] for x in ordered)
        vectors = torch.cat([features.permute(0, 2, 3, 1).flatten(1, 2) for features, _ in maps], 1)
        chosen = vectors[torch.arange(len(images), device=cells.device)[:, None], cells]
        described = network.projection(chosen.flatten(0, 1)).unflatten(0, cells.shape).flatten(1)
        rows = [values, cells.float(), described.float()]  # a float counts to 2^24, and images have fewer cells
        if head is not None:
            rows.append(head.of_batch(maps))
        return torch.cat(rows, 1), [tuple(scores.shape[1:]) for _, scores in maps]

    def _uploaded(self, images: Sequence[Pyramid]) -> Iterator[Tensor]:
        """Yield the pixels of images, those of one size and so many together as memory allows."""
        for shape, alike in groupby((image.pixels[0] for image in images), lambda pixels: tuple(pixels.shape)):
            moved = [pixels.to(self._runtime.device, non_blocking=True) for pixels in alike]
            yield from torch.stack(moved).split(max(1, _PIXELS // (shape[0] * shape[1])))

    def _unpacked(self, image: Pyramid, row: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> LocalFeatures:
        k = min(self._config.max_features, sum(height * width for height, width in shapes))
        scores, cells, descriptors, vector = np.split(row, np.cumsum([k, k, k * self._runtime.dim]))
        n = int((scores > -np.inf).sum())
        chosen = cells[:n].astype(np.int64)
        found = placed(image, shapes, chosen, scores[:n], descriptors.reshape(k, -1)[:n], self._runtime)
        return found if not len(vector) else replace(found, global_descriptor=vector)
