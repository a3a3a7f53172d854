"""The network on a card as CUDA graphs: a level of one photograph is launched at once, not layer by layer.

A small level takes the card less time than the host takes to launch its layers. A graph is what was launched once
for one shape, at fixed addresses, launched again as a whole. It may change nothing but time: when it is made it is
held against the network, to the bit; whatever goes wrong, the network computes as it would without.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from delf_engine.errors import DelfEngineWarning
from delf_engine.extraction import precision
from delf_engine.model.network import DelfNetwork

Maps = tuple[Tensor, Tensor]  # features and scores

_SEEN = 3  # times that a shape comes before it is captured, which waits for the device and empties torch's cache
_LARGEST = 3 << 22  # elements of an input, 4 megapixels: above, the card takes longer than the launches
_GRAPHS = 64  # sixteen shapes of photographs at four levels
_ELEMENTS = 1 << 26  # of all inputs; the maps of a ResNet-50, which its graphs keep, take 5 bytes for each
_BYTES = 512  # that the layers take for an element of an input, at most
_FAILURES = 3  # of captures, after which none is tried
_HOOKED = "a hook of somebody else's, which a replay would pass over"
_turn = threading.RLock()  # of the process: one capture at a time; a forked child never asks for it


class Graph(NamedTuple):
    """What writes `maps` from `pixels`, which stay where they are, when `launched` is replayed."""

    pixels: Tensor
    maps: Maps
    launched: Any  # torch.cuda.CUDAGraph

    def __call__(self, pixels: Tensor) -> Maps:
        """Replay it on the caller's stream; copies, since the next replay writes there, whoever still reads."""
        self.pixels.copy_(pixels)
        self.launched.replay()
        return self.maps[0].clone(), self.maps[1].clone()


class CudaGraphs(NamedTuple):
    """Captures on a stream that nothing else is launched on."""

    own: torch.cuda.Stream

    def state(self) -> tuple[Any, ...]:
        """Return where the caller launches, and what of torch decides which kernels."""
        cudnn: Any = torch.backends.cudnn
        tf32 = (
            cudnn.conv.fp32_precision if hasattr(cudnn, "conv") else cudnn.allow_tf32
        )  # the latter before torch 2.9
        choices = (tf32, cudnn.enabled, cudnn.benchmark, cudnn.deterministic)
        return torch.cuda.current_stream(self.own.device), *choices

    def capture(self, compute: Callable[[Tensor], Maps], pixels: Tensor, beside: Graph | None) -> Graph:
        """Return the graph of what computes the maps of `pixels`; it shares memory with another."""
        if not (torch.backends.cudnn.enabled and torch.backends.cudnn.is_available()):
            raise RuntimeError("cuDNN is off, and cuBLAS may lose its memory")
        self.own.wait_stream(torch.cuda.current_stream())
        # Left by this one, too, if a capture fails, when `torch.cuda.graph` stays on the stream.
        with torch.cuda.stream(self.own):
            for _ in range(3):  # libraries choose their kernels and take their workspaces
                compute(pixels)
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            if torch.cuda.mem_get_info()[0] < _BYTES * pixels.numel():  # not all versions recover from it below
                raise torch.cuda.OutOfMemoryError("too little memory is free")
            graph, pool = torch.cuda.CUDAGraph(), beside and beside.launched.pool()
            # Not "global": other threads pin memory meanwhile.
            with torch.cuda.graph(graph, pool, self.own, capture_error_mode="thread_local"):
                return Graph(pixels, compute(pixels), graph)


class GraphedNetwork:
    """The maps of a network by graphs where that is worth it, a bounded number of them."""

    def __init__(self, network: DelfNetwork, backend: CudaGraphs) -> None:
        self._network, self._backend = network, backend
        self._graphs: OrderedDict[Any, Graph] = OrderedDict()  # the one used last at the end
        self._seen: Counter[Any] = Counter()
        self._wanted, self._failures, self._process = _SEEN, 0, os.getpid()
        self._state: list[Any] = []
        self._thread = threading.current_thread()  # that captures: its end may be that of plans of cuDNN

    def maps(self, pixels: Tensor) -> Maps:
        """Return those of `DelfNetwork.maps`."""
        off = self._failures >= _FAILURES or self._network.training or self._process != os.getpid()
        if off or pixels.numel() > _LARGEST:
            return self._network.maps(pixels)
        key = (pixels.shape, pixels.stride(), pixels.dtype)
        with _turn, torch.cuda.device_of(pixels):
            state = [self._backend.state(), self._thread.is_alive(), *_state(self._network)]
            if state != self._state:  # all of one stream, since two replays at once would share memory
                self._wanted += _SEEN * bool(self._graphs)
                self._graphs.clear()
                self._state, self._thread = state, threading.current_thread()
            if key in self._graphs:
                self._graphs.move_to_end(key)
                try:
                    return self._graphs[key](pixels)
                except RuntimeError as error:
                    self._fail(key, error)
            maps = self._network.maps(pixels)
            if _HOOKED in state:
                return maps
            self._seen[key] += 1
            if self._seen[key] >= self._wanted and threading.current_thread() is self._thread:
                self._capture(key, pixels, maps)
            elif len(self._seen) > 16 * _GRAPHS:
                self._seen.clear()
            return maps

    def _capture(self, key: Any, pixels: Tensor, wanted: Maps) -> None:
        try:
            # In inference mode torch's random state would become tensors that no other graph can write.
            with torch.inference_mode(False), torch.no_grad():
                empty = torch.zeros_like(pixels)  # the right maps then tell that a replay reads its input
                graph = self._backend.capture(self._network.maps, empty, next(iter(self._graphs.values()), None))
            for a, b in zip(graph(pixels), wanted, strict=True):
                if a.stride() != b.stride() or not torch.equal(a.view(torch.int32), b.view(torch.int32)):
                    raise ArithmeticError("its graph computes something else")
        except Exception as error:  # noqa: BLE001 - whatever a library or a driver cannot do here
            self._fail(key, error)
            return
        del self._seen[key]
        self._graphs[key] = graph
        while len(self._graphs) > _GRAPHS or sum(one.pixels.numel() for one in self._graphs.values()) > _ELEMENTS:
            self._graphs.popitem(last=False)
            self._wanted += _SEEN  # so that more shapes than there is room for are not captured in turn for ever

    def _fail(self, key: Any, error: Exception) -> None:
        self._graphs.pop(key, None)
        self._seen[key] = -(1 << 62)
        self._failures += _FAILURES if isinstance(error, torch.cuda.OutOfMemoryError) else 1
        if self._failures >= _FAILURES:
            self._graphs.clear()
        text = f"pixels of {tuple(key[0])} have no CUDA graph and take longer, layer by layer: {error}"
        warnings.warn(text, DelfEngineWarning, stacklevel=2)


def _state(module: nn.Module) -> Iterator[Any]:
    """Yield modes, hooks, and where weights lie: by hand, since torch's own walk takes fifteen times as long."""
    of: dict[str, Any] = module.__dict__
    hooks = [*of["_forward_pre_hooks"].values(), *of["_forward_hooks"].values()]
    if "forward" in of or any(getattr(hook, "__module__", "") != precision.__name__ for hook in hooks):
        yield _HOOKED
    yield (module.training, hooks)
    for one in (*of["_parameters"].values(), *of["_buffers"].values()):
        yield one is not None and (one.data_ptr(), one.dtype)
    for child in of["_modules"].values():
        yield from _state(child)
