"""The extractor: image pyramid, network, selection, projection."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from delf_engine.config import ExtractionConfig, load_profile
from delf_engine.errors import ConfigError, DelfEngineWarning, ImageError
from delf_engine.extraction.precision import has_native_bf16, resolve_precision, warn_emulated, with_bf16_trunk
from delf_engine.extraction.selection import select_top
from delf_engine.features import LocalFeatures
from delf_engine.images import MAX_PIXELS, Box, ImageSource, crop, load_image, source_name
from delf_engine.model import CheckpointInfo, load_checkpoint
from delf_engine.pyramid import Level, cell_centres, plan_levels, resize

if TYPE_CHECKING:
    import torch

    from delf_engine.model.network import DelfNetwork

__all__ = ["Extractor"]

Source = TypeVar("Source", bound=ImageSource)
Rgb = npt.NDArray[np.uint8]


class Extractor:
    """Turns photographs into `LocalFeatures`.

    Parameters
    ----------
    network : DelfNetwork
    config : ExtractionConfig
        Scales, input size, number of features.
    info : CheckpointInfo or None
        Of the checkpoint that `network` came from.
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ..., or ``"auto"``: a GPU where there is one.
    max_pixels : int
        Larger images are refused before decoding.
    precision : "auto", "fp32", "bf16" or None
        Arithmetic of the trunk; None: as `config` says. "auto" is bfloat16 where the hardware has it.

    Attributes
    ----------
    precision : "fp32" or "bf16"
        What is computed in; `config.precision` is the same.

    References
    ----------
    Noh et al., Large-Scale Image Retrieval with Attentive Deep Local Features, ICCV 2017.
    """

    def __init__(
        self,
        network: DelfNetwork,
        config: ExtractionConfig,
        *,
        info: CheckpointInfo | None = None,
        device: str = "auto",
        max_pixels: int = MAX_PIXELS,
        precision: Literal["auto", "fp32", "bf16"] | None = None,
    ) -> None:
        import torch

        self.info = info
        self.max_pixels = max_pixels
        self.device = _device(device)
        self.precision = resolve_precision(precision or config.precision, self.device)
        threshold = (info.attention_threshold if info else None) or 0.0  # on this checkpoint's own scale of scores
        min_score = max(config.min_score, threshold)
        self.config = config.model_copy(update={"precision": self.precision, "min_score": min_score})
        if self.precision == "bf16":
            native = has_native_bf16(self.device)
            if not native:
                warn_emulated(self.device)
            network = with_bf16_trunk(network, native=native)
        self.network = network.eval().requires_grad_(False).to(self.device)
        self.network = self.network.to(memory_format=torch.channels_last)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] = "delf-r18",
        *,
        profile: str | os.PathLike[str] | None = None,
        config: ExtractionConfig | None = None,
        device: str = "auto",
        max_pixels: int = MAX_PIXELS,
        precision: Literal["auto", "fp32", "bf16"] | None = None,
    ) -> Extractor:
        """Load a checkpoint that comes with the package, or a file.

        Parameters
        ----------
        name_or_path : str or path
            ``"delf-r18"``, or the path of a checkpoint.
        profile : str, path or None
            Take the extraction options of this profile instead of the checkpoint's own.
        config : ExtractionConfig or None
            Or these options outright.
        device, max_pixels, precision
            See the class.

        Raises
        ------
        CheckpointError
            If the checkpoint is missing or damaged.
        ConfigError
            If there is no such profile, device or precision, or both `profile` and `config` are given.
        """
        if profile is not None and config is not None:
            raise ConfigError("give profile or config, not both")
        network, info = load_checkpoint(name_or_path)
        chosen = config or load_profile(profile or info.profile).extraction
        return cls(network, chosen, info=info, device=device, max_pixels=max_pixels, precision=precision)

    def __call__(self, image: ImageSource, *, box: Box | None = None) -> LocalFeatures:
        """Extract the local features of one image.

        Parameters
        ----------
        image : path, bytes, PIL image, or (H, W, 3) uint8 RGB array
        box : x0, y0, x1, y1 or None
            Region of interest in pixels: only it is looked at, at the scale that the whole image would
            have had; keypoints are still in pixels of the whole image.

        Returns
        -------
        LocalFeatures
            At most `config.max_features`, sorted by attention.

        Raises
        ------
        ImageError
            If the image cannot be read, or it or the box is smaller than `config.min_side` pixels.
        """
        return self._extract(load_image(image, max_pixels=self.max_pixels), box, source_name(image))

    def extract_many(
        self,
        images: Iterable[Source],
        *,
        workers: int = 1,
        on_error: Callable[[Source, ImageError], None] | None = None,
    ) -> Generator[tuple[Source, LocalFeatures], None, None]:
        """Extract many images, decoding ahead in threads; results come in the order of `images`.

        The network sees one image at a time, so features are the same bits as from a single call.

        Parameters
        ----------
        images : iterable of image sources
            Read lazily, a few ahead of the network.
        workers : int
            Decoding threads.
        on_error : callable or None
            Called with each image that could not be read and its error; the rest goes on. None: a
            `DelfEngineWarning` is issued for each.

        Yields
        ------
        (source, LocalFeatures)
        """
        if workers < 1:
            raise ConfigError(f"workers must be at least 1, got {workers}")
        report = on_error or _warn
        remaining = iter(images)
        with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
            ahead: deque[tuple[Source, Future[Rgb]]] = deque()

            def fill() -> None:
                for source in islice(remaining, 2 * workers + 1 - len(ahead)):
                    ahead.append((source, pool.submit(load_image, source, max_pixels=self.max_pixels)))

            try:
                fill()
                while ahead:
                    source, decoded = ahead.popleft()
                    try:
                        features = self._extract(decoded.result(), None, source_name(source))
                    except ImageError as error:
                        report(source, error)
                    else:
                        yield source, features
                    fill()
            finally:
                for _, waiting in ahead:
                    waiting.cancel()

    def attention_map(self, image: ImageSource) -> npt.NDArray[np.float32]:
        """Return the attention over an image, the maximum over all levels, for drawing.

        Returns
        -------
        (h, w) float32
            On the cell grid of the finest level.
        """
        import cv2
        import torch

        pixels = load_image(image, max_pixels=self.max_pixels)
        levels = self._levels(pixels, None, source_name(image))
        with torch.inference_mode():
            maps = [self._forward(pixels, level)[1].float().cpu().numpy() for level in levels]
        height, width = np.max([m.shape for m in maps], axis=0)
        return np.asarray(
            np.max([cv2.resize(m, (int(width), int(height))) for m in maps], axis=0), dtype=np.float32
        )

    def __repr__(self) -> str:
        name = self.info.name if self.info else "network"
        scales = ", ".join(f"{s:.3g}" for s in self.config.scales)
        return (
            f"Extractor({name}, {self.network.dim}-D, scales {scales}, "
            f"at most {self.config.max_features} features, {self.precision} on {self.device})"
        )

    def _extract(self, pixels: Rgb, box: Box | None, name: str) -> LocalFeatures:
        import torch

        whole_size = (pixels.shape[1], pixels.shape[0])
        offset = (0, 0)
        if box is not None:
            pixels, offset = crop(pixels, box, name=name)
        levels = self._levels(pixels, whole_size, name)
        with torch.inference_mode():
            outputs = [self._forward(pixels, level) for level in levels]
            return self._select(outputs, levels, (pixels.shape[1], pixels.shape[0]), offset, whole_size)

    def _levels(self, pixels: Rgb, whole_size: tuple[int, int] | None, name: str) -> list[Level]:
        height, width = pixels.shape[:2]
        if min(width, height) < self.config.min_side:
            raise ImageError(
                name, f"{width} x {height} pixels are too few; each side needs at least {self.config.min_side}"
            )
        return plan_levels(
            (width, height),
            self.config.scales,
            max_image_size=self.config.max_image_size,
            min_side=self.config.min_side,
            whole_size=whole_size,
            fill_scales=self.config.fill_scales,
            fill_to=self.config.max_features,
            stride=self.network.stride,
        )

    def _forward(self, pixels: Rgb, level: Level) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the (h, w, C) features and the (h, w) scores of one level."""
        import torch

        resized = resize(pixels, level.width, level.height, self.config.resize)
        batch = torch.from_numpy(resized)[None].to(self.device)
        features, scores = self.network(self.network.normalise(batch))
        return features[0].permute(1, 2, 0), scores[0]

    def _select(
        self,
        outputs: list[tuple[torch.Tensor, torch.Tensor]],
        levels: list[Level],
        size: tuple[int, int],
        offset: tuple[int, int],
        whole_size: tuple[int, int],
    ) -> LocalFeatures:
        import torch

        if not levels:
            return LocalFeatures.empty(whole_size, self.network.dim)
        scores = np.concatenate([s.reshape(-1).float().cpu().numpy() for _, s in outputs])
        starts = np.cumsum([0] + [s.numel() for _, s in outputs])
        chosen = select_top(scores, self.config.max_features, self.config.min_score)

        keypoints = np.empty((len(chosen), 2), np.float32)
        scales = np.empty(len(chosen), np.float32)
        vectors = outputs[0][0].new_empty((len(chosen), outputs[0][0].shape[2]))
        for i, ((features, _), level) in enumerate(zip(outputs, levels, strict=True)):
            mine = np.flatnonzero((chosen >= starts[i]) & (chosen < starts[i + 1]))
            cells = chosen[mine] - starts[i]
            rows, columns = np.divmod(cells, features.shape[1])
            keypoints[mine] = cell_centres(np.stack([columns, rows], 1), level, size, stride=self.network.stride)
            scales[mine] = 1 / level.scale
            flat = features.reshape(-1, features.shape[2])
            vectors[torch.from_numpy(mine).to(self.device)] = flat[torch.from_numpy(cells).to(self.device)]
        descriptors = self.network.projection(vectors).float().cpu().numpy()
        # A vector that projects to nothing has no direction, so it cannot be matched.
        keep = np.abs(descriptors).sum(1) > 0
        keypoints += np.asarray(offset, np.float32)
        return LocalFeatures(keypoints[keep], scales[keep], scores[chosen][keep], descriptors[keep], whole_size)


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}: {error}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} was asked for, but torch finds no CUDA device; use 'cpu' or 'auto'")
    return device


def _warn(source: ImageSource, error: ImageError) -> None:
    warnings.warn(f"left out: {error}", DelfEngineWarning, stacklevel=4)
