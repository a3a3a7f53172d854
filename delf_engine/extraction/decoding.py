"""Decoding ahead of the network, in worker processes.

Processes, because a decoder that crashes on a damaged file must not take a batch of a million with it, and
because Python's lock is never waited for. They are plain interpreters behind pipes, not forks: torch's threads do
not survive a fork, and a caller's script needs no ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import TypeVar

from delf_engine.config import ExtractionConfig
from delf_engine.errors import ConfigError, ImageError
from delf_engine.extraction.preparation import Prepared, prepare
from delf_engine.extraction.worker import read_message, unpack, write_message
from delf_engine.images import MAX_PIXELS, ImageSource, source_name
from delf_engine.support.threads import usable_cores

__all__ = ["Decoders", "windows", "worker_count"]

Source = TypeVar("Source", bound=ImageSource)
Item = TypeVar("Item")

_MOST = 16  # a GPU waits for about this many
_CORES_A_WORKER = 8  # on a CPU: decoding takes a few per cent of extraction, and more would be in its way
_FEW = 8  # images that are decoded sooner than a process starts
_TRIES = 2
_COMMAND = "from delf_engine.extraction.worker import main; main()"


class Decoders:
    """Reads images and makes their pyramids, in order, a few ahead of whoever takes them.

    Parameters
    ----------
    config : ExtractionConfig
    stride : int
        Of the network's feature map.
    max_pixels : int
        Larger images are refused.
    workers : int
        Processes; 0: one thread of this process. Pixels that are in memory already never leave it.
    ahead : int
        Images that whoever takes them holds at once. Twice the workers and this many are in memory at most.
    """

    def __init__(
        self,
        config: ExtractionConfig,
        *,
        stride: int,
        max_pixels: int = MAX_PIXELS,
        workers: int = 0,
        ahead: int = 1,
    ) -> None:
        self._config, self._stride, self._max_pixels = config, stride, max_pixels
        self._processes = workers > 0
        self._most = 2 * max(1, workers) + ahead
        self._threads = ThreadPoolExecutor(max(1, workers), thread_name_prefix="decode")
        self._mutex = threading.Lock()
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._closed = False

    def stream(self, sources: Iterable[Source]) -> Generator[tuple[Source, Prepared | ImageError], None, None]:
        """Yield each source with its pyramid or what is wrong with it, in order; `sources` is read lazily."""
        remaining = iter(sources)
        ahead: deque[tuple[Source, Future[Prepared]]] = deque()

        def fill() -> None:
            for source in islice(remaining, self._most - len(ahead)):
                ahead.append((source, self._threads.submit(self._prepare, source)))

        try:
            fill()
            while ahead:
                source, future = ahead.popleft()
                try:
                    found: Prepared | ImageError = future.result()
                except ImageError as error:
                    found = error
                del future  # or its pixels live until the next image
                yield source, found
                del found
                fill()
        finally:
            for _, waiting in ahead:
                waiting.cancel()

    def close(self) -> None:
        """End the processes; what they are at is dropped."""
        with self._mutex:
            processes, self._all, self._idle = list(self._all), set(), []
            self._closed = True
        for process in processes:
            process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Decoders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self, source: ImageSource) -> Prepared:
        if not self._processes or not isinstance(source, (str, bytes, os.PathLike)):
            return prepare(source, self._config, stride=self._stride, max_pixels=self._max_pixels)
        for _ in range(_TRIES):
            process = self._take()
            try:
                found = process.prepare(source)
            except (OSError, EOFError, ValueError):  # it died; ValueError: its pipe was closed
                self._drop(process)
                continue
            self._give_back(process)
            if isinstance(found, str):
                raise ImageError(source_name(source), found)
            return found
        raise ImageError(
            source_name(source),
            f"the process that decoded it died {_TRIES} times: the file crashes the decoder, or memory ran out",
        )

    def _take(self) -> _Process:
        with self._mutex:
            if self._idle:
                return self._idle.pop()
            if self._closed:
                raise RuntimeError("the decoders are closed")
            process = _Process(self._config, self._stride, self._max_pixels)
            self._all.add(process)
            return process

    def _give_back(self, process: _Process) -> None:
        with self._mutex:
            self._idle.append(process)

    def _drop(self, process: _Process) -> None:
        with self._mutex:
            self._all.discard(process)
        process.kill()


class _Process:
    """One worker process and its pipes. One thread at a time talks to it."""

    def __init__(self, config: ExtractionConfig, stride: int, max_pixels: int) -> None:
        from PIL import Image

        self._options = {
            "config": json.loads(config.model_dump_json()),
            "stride": stride,
            "max_pixels": max_pixels,
            "pillow_limit": Image.MAX_IMAGE_PIXELS,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            start_new_session=True,  # Ctrl-C is for the caller: this one ends when its input does
        )
        self._greeted = False

    def prepare(self, source: str | bytes | os.PathLike[str]) -> Prepared | str:
        """Return the pyramid of an image, or what is wrong with it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if not self._greeted:
            write_message(self._process.stdin, self._options)
            self._greeted = True
        if isinstance(source, bytes):
            write_message(self._process.stdin, {"path": None}, [source])
        else:
            write_message(self._process.stdin, {"path": os.path.abspath(source)})
        head, data = read_message(self._process.stdout)
        return str(head["error"]) if "error" in head else unpack(head, data)

    def kill(self) -> None:
        """End the process; whoever waits for its answer gets an EOFError."""
        self._process.kill()
        self._process.wait()


def worker_count(workers: int | None, images: Iterable[object], *, gpu: bool) -> int:
    """Return how many decoding processes to use: `workers`; None: see `Extractor.extract_many`.

    Raises
    ------
    ConfigError
        If `workers` is negative.
    """
    if workers is not None:
        if workers < 0:
            raise ConfigError(f"workers must be 0 (decode in this process) or more, got {workers}")
        return workers
    if isinstance(images, Sized) and len(images) <= _FEW:
        return 0
    cores = usable_cores()
    return min(_MOST, cores if gpu else max(1, cores // _CORES_A_WORKER))


def windows(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items, the last one shorter."""
    while window := list(islice(items, size)):
        yield window
