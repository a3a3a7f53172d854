"""The extractor: image pyramid, network, selection, projection."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from delf_engine.config import ExtractionConfig, load_profile
from delf_engine.errors import ConfigError, DelfEngineWarning, ImageError
from delf_engine.extraction.assembly import assemble, joined_attention
from delf_engine.extraction.decoding import Pyramid, decoded, read_pyramid, windows, worker_count
from delf_engine.extraction.precision import (
    Precision,
    has_native_bf16,
    resolve_precision,
    warn_emulated,
    with_bf16_trunk,
)
from delf_engine.extraction.runtime import CellMap, Runtime, TorchRuntime
from delf_engine.features import LocalFeatures
from delf_engine.images import MAX_PIXELS, Box, ImageSource
from delf_engine.model import CheckpointInfo, GlobalHead, load_checkpoint, load_global_head
from delf_engine.model.device import choose_device
from delf_engine.support.memory import Heap
from delf_engine.support.threads import torch_after_fork

if TYPE_CHECKING:
    import torch

    from delf_engine.extraction.on_device import DeviceExtraction
    from delf_engine.model.network import DelfNetwork

Source = TypeVar("Source", bound=ImageSource)

_GPU_BATCH = 32


class Extractor:
    """Turns photographs into `LocalFeatures`.

    Parameters
    ----------
    network : DelfNetwork or Runtime
        What computes; a runtime other than torch computes where and how it does, whatever `device` says.
    config : ExtractionConfig
        Scales, input size, number of features.
    info : CheckpointInfo or None
        What the checkpoint of `network` says of itself.
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ..., or ``"auto"``: a GPU where there is one.
    max_pixels : int or None
        Images of which more pixels would have to be decoded are refused; None: as `config` says. A JPEG above it
        is decoded at 1/2, 1/4 or 1/8 of its size where its pyramid needs no more.
    precision : "auto", "fp32", "bf16" or None
        Arithmetic of the trunk; None: as `config` says. "auto" is bfloat16 where the hardware has it.
    global_head : GlobalHead or None
        What makes the global descriptor of each image from the same maps; None: there is none. Torch only.

    Attributes
    ----------
    precision : "fp32" or "bf16"
        What is computed in; `config.precision` is the same.
    max_pixels : int
        May be set anew at any time.

    Notes
    -----
    In a forked child (`multiprocessing` with "fork", servers that preload) it goes on, in one thread, on a CPU; on
    a GPU it is refused with a `ConfigError`, since a GPU does not work in a fork.

    References
    ----------
    Noh et al., Large-Scale Image Retrieval with Attentive Deep Local Features, ICCV 2017.
    """

    def __init__(
        self,
        network: DelfNetwork | Runtime,
        config: ExtractionConfig,
        *,
        info: CheckpointInfo | None = None,
        device: str = "auto",
        max_pixels: int | None = None,
        precision: Literal["auto", "fp32", "bf16"] | None = None,
        global_head: GlobalHead | None = None,
    ) -> None:
        self.info, self.global_head = info, global_head
        self._heap = Heap()
        self.max_pixels = max_pixels or config.max_pixels or MAX_PIXELS
        self.device: torch.device | None = None
        if isinstance(network, Runtime):
            self.precision = _own_precision(network, precision or config.precision)
            self.runtime = network
        else:
            torch_after_fork()
            self.device = choose_device(device)
            self.precision = resolve_precision(precision or config.precision, self.device)
            self.runtime = TorchRuntime(_lowered(network, self.precision, self.device), self.device)
        threshold = (info.attention_threshold if info else None) or 0.0  # on this checkpoint's own scale of scores
        min_score = max(config.min_score, threshold)
        self.config = config.model_copy(update={"precision": self.precision, "min_score": min_score})
        self._on_device: DeviceExtraction | None = None
        if self.device is not None and self.device.type != "cpu":
            self._extract_on_device()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] = "delf-r18",
        *,
        profile: str | os.PathLike[str] | None = None,
        config: ExtractionConfig | None = None,
        device: str = "auto",
        max_pixels: int | None = None,
        precision: Literal["auto", "fp32", "bf16"] | None = None,
    ) -> Extractor:
        """Load a checkpoint that comes with the package, or a file, and the global head that lies beside it.

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
            If the checkpoint is missing or damaged, or the global head beside it is, or is of another one.
        ConfigError
            If there is no such profile, device or precision, or both `profile` and `config` are given.
        """
        if profile is not None and config is not None:
            raise ConfigError("give profile or config, not both")
        network, info = load_checkpoint(name_or_path)
        chosen = config or load_profile(profile or info.profile).extraction
        head = load_global_head(name_or_path, info.identity)
        options: Any = {"device": device, "max_pixels": max_pixels, "precision": precision, "global_head": head}
        return cls(network, chosen, info=info, **options)

    @classmethod
    def from_onnx(
        cls,
        path: str | os.PathLike[str],
        *,
        profile: str | os.PathLike[str] | None = None,
        config: ExtractionConfig | None = None,
        threads: int | None = None,
        max_pixels: int | None = None,
    ) -> Extractor:
        """Load a file that ``delf-engine model export`` wrote as ONNX; torch is not needed.

        Parameters
        ----------
        path : path
        profile, config, max_pixels
            See `from_pretrained`.
        threads : int or None
            Threads of ONNX Runtime; None: one for each core.

        Raises
        ------
        CheckpointError
            If the file is missing, damaged, or not ours.
        ConfigError
            If onnxruntime is not installed, there is no such profile, or both `profile` and `config` are given.
        """
        from delf_engine.extraction.onnx_runtime import OnnxRuntime

        if profile is not None and config is not None:
            raise ConfigError("give profile or config, not both")
        runtime = OnnxRuntime(path, threads=threads)
        chosen = config or load_profile(profile or runtime.info.profile).extraction
        return cls(runtime, chosen, info=runtime.info, max_pixels=max_pixels)

    def __call__(self, image: ImageSource, *, box: Box | None = None, rotation: int = 0) -> LocalFeatures:
        """Extract the local features of one image.

        Parameters
        ----------
        image : path, bytes, PIL image, or (H, W, 3) uint8 RGB array
        box : x0, y0, x1, y1 or None
            Region of interest in pixels: only it is looked at, at the scale that the whole image would
            have had; keypoints are still in pixels of the whole image.
        rotation : int
            Degrees, a multiple of 90, by which the image, and the box with it, is turned counterclockwise first:
            keypoints are in pixels of the turned image. ``.turned(-rotation)`` takes them back.

        Returns
        -------
        LocalFeatures
            At most `config.max_features`, sorted by attention.

        Raises
        ------
        ImageError
            If the image cannot be read, or it or the box is smaller than `config.min_side` pixels.
        """
        if self._on_device is not None:
            options: Any = {"box": box, "rotation": rotation, "max_pixels": self.max_pixels}
            return self._on_device.begin([self._on_device.read(image, **options)], self.global_head)()[0]
        pyramid = self._prepare(image, box, rotation)
        return self._features(pyramid, self._maps(pyramid))

    def extract_many(
        self,
        images: Iterable[Source],
        *,
        workers: int | None = None,
        batch: int | None = None,
        max_pixels: int | None = None,
        on_error: Callable[[Source, ImageError], None] | None = None,
    ) -> Generator[tuple[Source, LocalFeatures], None, None]:
        """Extract many images, decoding ahead in workers; results come in the order of `images`.

        Memory does not grow with their number: at most twice the workers and one image are held at once, on a GPU
        twice the workers and two batches.

        Parameters
        ----------
        images : iterable of image sources
            Read lazily, a few ahead of the network.
        workers : int or None
            Decoding processes; 0: a thread of this one. None: one a core for a GPU, one for eight cores of a CPU,
            which the network keeps busy, and 0 for a list of a few images. A file that brings its process down is
            tried once more and then reported like any unreadable one. For a GPU they are threads, since whole
            photographs go there: a decoder that crashes takes this process along.
        batch : int or None
            Images that go through a GPU together, those with equal pyramids at once; None: 32. Features agree with
            those of single calls to rounding. A CPU is kept busy by a single image: there they are the same bits.
        max_pixels : int or None
            Limit to use in place of the extractor's own.
        on_error : callable or None
            Called with each image that could not be read and its error; the rest goes on. None: a
            `DelfEngineWarning` is issued for each.

        Yields
        ------
        (source, LocalFeatures)

        Raises
        ------
        ConfigError
            If `workers` or `batch` is out of range.
        """
        if isinstance(images, (str, bytes, os.PathLike)):
            raise ConfigError("extract_many takes an iterable of images, not one; call the extractor itself")
        workers = worker_count(workers, images, gpu=self.on_gpu)
        batch = _GPU_BATCH if batch is None else batch
        if batch < 1:
            raise ConfigError(f"batch must be at least 1, got {batch}")
        report = on_error or _warn
        limit = max_pixels or self.max_pixels
        if self._on_device is not None:
            reading = partial(self._on_device.read, max_pixels=limit)
            with closing(decoded(images, reading, workers=workers, ahead=2 * batch, threads=True)) as photographs:
                yield from self._overlapped(photographs, batch, report)
            return
        read = partial(read_pyramid, config=self.config, max_pixels=limit, **self._grid)
        with closing(decoded(images, read, workers=workers)) as stream:
            for source, pyramid in stream:
                if isinstance(pyramid, ImageError):
                    report(source, pyramid)
                else:
                    yield source, self._features(pyramid, self._maps(pyramid))

    def _overlapped(
        self,
        stream: Iterator[tuple[Source, Pyramid | ImageError]],
        batch: int,
        report: Callable[[Source, ImageError], None],
    ) -> Iterator[tuple[Source, LocalFeatures]]:
        """Yield the features of one batch while the device is at work on the next."""
        assert self._on_device is not None
        before: list[tuple[Source, ImageError | None]] = []
        finish: Callable[[], list[LocalFeatures]] = list
        for window in chain(windows(stream, batch), [[]]):
            photographs = [one for _, one in window if not isinstance(one, ImageError)]
            begun = self._on_device.begin(photographs, self.global_head)
            features = iter(finish())
            for source, error in before:
                if error is None:
                    yield source, next(features)
                else:
                    report(source, error)
            before = [(source, one if isinstance(one, ImageError) else None) for source, one in window]
            finish = begun
            self._heap.give_back()

    def attention_map(self, image: ImageSource) -> npt.NDArray[np.float32]:
        """Return the attention over an image, the maximum over all levels, for drawing.

        Returns
        -------
        (h, w) float32
            On the cell grid of the finest level; one cell of 0 for an image that is too narrow for any level.
        """
        return joined_attention(self._maps(self._prepare(image, None)))

    def __repr__(self) -> str:
        name = self.info.name if self.info else "network"
        scales = ", ".join(f"{s:.3g}" for s in self.config.scales)
        return (
            f"Extractor({name}, {self.dim}-D, scales {scales}, "
            f"at most {self.config.max_features} features, {self.precision} on {self.runtime.name})"
        )

    @property
    def dim(self) -> int:
        """Descriptor dimension D."""
        return self.runtime.dim

    @property
    def on_gpu(self) -> bool:
        """Whether the cores are free while the network computes, in the process that it was made in."""
        return isinstance(self.runtime, TorchRuntime) and self.runtime.on_gpu

    @property
    def network(self) -> DelfNetwork:
        """The torch network, in the precision it computes in.

        Raises
        ------
        ConfigError
            If something else than torch computes.
        """
        if not isinstance(self.runtime, TorchRuntime):
            raise ConfigError(f"{self!r} has no torch network")
        return self.runtime.network

    def _prepare(self, image: ImageSource, box: Box | None, rotation: int = 0) -> Pyramid:
        options: Any = {"box": box, "rotation": rotation, "max_pixels": self.max_pixels}
        return read_pyramid(image, self.config, **options, **self._grid)

    @property
    def _grid(self) -> Any:
        return {"stride": self.runtime.stride, "offset": self.runtime.offset}

    def _extract_on_device(self) -> None:
        """Take the way of a GPU, which torch goes on a CPU, too."""
        from delf_engine.extraction.on_device import DeviceExtraction

        assert isinstance(self.runtime, TorchRuntime)
        self._on_device = DeviceExtraction(self.runtime, self.config)

    def _maps(self, pyramid: Pyramid) -> list[CellMap]:
        return [self.runtime.forward(pixels[None])[0] for pixels in pyramid.pixels]

    def _features(self, pyramid: Pyramid, maps: Sequence[CellMap]) -> LocalFeatures:
        features = assemble(pyramid, maps, self.config, self.runtime)
        if self.global_head is not None:
            vector = self.global_head([(one.features, one.scores) for one in maps])
            features = replace(features, global_descriptor=vector)
        self._heap.give_back()
        return features


def _lowered(network: DelfNetwork, precision: Precision, device: torch.device) -> DelfNetwork:
    if precision == "fp32":
        return network
    native = has_native_bf16(device)
    if not native:
        warn_emulated(device)
    return with_bf16_trunk(network, native=native)


def _own_precision(runtime: Runtime, wanted: str) -> Precision:
    """Return the precision of a runtime that has its own: float32."""
    if wanted == "bf16":
        raise ConfigError(f"{runtime.name} computes in fp32; precision 'bf16' needs a checkpoint run by torch")
    return "fp32"


def _warn(source: ImageSource, error: ImageError) -> None:
    warnings.warn(f"left out: {error}", DelfEngineWarning, stacklevel=4)
