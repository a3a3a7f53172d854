"""The policy of CUDA graphs with a backend that computes anew, and on a card the real one."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from delf_engine.config import load_profile
from delf_engine.errors import DelfEngineWarning
from delf_engine.extraction import Extractor, graphs
from delf_engine.extraction.graphs import CudaGraphs, Graph, GraphedNetwork
from delf_engine.extraction.on_device import DeviceExtraction
from delf_engine.extraction.precision import with_bf16_trunk
from delf_engine.model import load_checkpoint
from helpers import random_photo


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 4, 4, 4).requires_grad_(False)

    def maps(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(pixels.float().permute(0, 3, 1, 2) / 255)
        return features, features.norm(dim=1)


class Backend:
    """Writes into the same tensors, as a graph does."""

    def __init__(self) -> None:
        self.where, self.error, self.spoilt = "a stream", "", 0.0
        self.captured: list[int] = []
        self.replays = 0

    def state(self) -> tuple[Any, ...]:
        return (self.where,)

    def capture(self, compute: Any, pixels: Tensor, beside: Graph | None) -> Graph:
        self.captured.append(pixels.shape[1])
        self.beside = beside
        if self.error:
            raise (torch.cuda.OutOfMemoryError if "memory" in self.error else RuntimeError)(self.error)
        maps = compute(pixels)

        def replay() -> None:
            self.replays += 1
            if "launch" in self.error:
                raise RuntimeError(self.error)
            for old, new in zip(maps, compute(pixels), strict=True):
                old.copy_(new + self.spoilt)

        return Graph(pixels, maps, SimpleNamespace(replay=replay))


def graphed() -> tuple[Any, Any, Any]:
    network, backend = Tiny().eval(), Backend()
    return network, backend, GraphedNetwork(network, backend)  # type: ignore[arg-type]


def call(network: Any, computes: Any, *sides: int) -> None:
    """Compute the maps of new pixels; all are the network's to the bit, whatever was computed after them."""
    with torch.inference_mode():
        photos = [random_photo(np.random.default_rng(seed), side, side) for seed, side in enumerate(sides)]
        inputs = [torch.from_numpy(one)[None].to(next(network.parameters()).device) for one in photos]
        found = [computes.maps(pixels) for pixels in inputs]
        for pixels, maps in zip(inputs, found, strict=True):
            for a, b in zip(maps, network.maps(pixels), strict=True):
                assert torch.equal(a, b)
                assert a.stride() == b.stride()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([8, 12, 16, 20]), max_size=60), st.integers(1, 4))
def test_maps_are_those_of_the_network_whatever_comes(sides: list[int], room: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(graphs, "_GRAPHS", room)
        network, _, computes = graphed()
        call(network, computes, *sides)
        assert len(computes._graphs) <= room


@pytest.mark.parametrize(("limit", "value"), [("_GRAPHS", 2), ("_ELEMENTS", 3 * (8**2 + 16**2))])
def test_the_third_of_a_shape_is_captured(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    monkeypatch.setattr(graphs, "_LARGEST", 3 * 16**2)
    monkeypatch.setattr(graphs, limit, value)
    network, backend, computes = graphed()
    call(network, computes, 12, 12, 8, 8)
    assert backend.captured == []
    call(network, computes, 12, 8, 20, 20, 20, 12, 8)
    assert (backend.captured, backend.replays) == ([12, 8], 2 + 2)
    assert backend.beside.pixels.shape[1] == 12
    call(network, computes, 16, 16, 16)  # the one used least lately makes room
    assert [one.pixels.shape[1] for one in computes._graphs.values()] == [8, 16]
    call(network, computes, *[12] * 5)
    assert backend.captured == [12, 8, 16]
    call(network, computes, 12)  # twice as often as the first time
    assert backend.captured == [12, 8, 16, 12]


@pytest.mark.parametrize("last", ["902", "out of memory"])
def test_a_fault_leaves_the_shape_to_the_network_and_in_the_end_all(last: str) -> None:
    network, backend, computes = graphed()
    call(network, computes, *[20] * 4)
    faults = [(16, {"error": last})]
    if last == "902":
        faults = [(8, {"error": "900"}), (12, {"spoilt": 1e-3}), *faults]
    for side, fault in faults:
        vars(backend).update({"error": "", "spoilt": 0.0, **fault})
        with pytest.warns(DelfEngineWarning, match=str(fault.get("error", side))):
            call(network, computes, *[side] * 3)
        call(network, computes, *[side] * 4)
    replays = backend.replays
    call(network, computes, *[20] * 3, *[24] * 4)
    assert (backend.captured, backend.replays) == ([20, *(side for side, _ in faults)], replays)
    assert not computes._graphs


def test_a_graph_that_cannot_be_launched_any_more_is_dropped() -> None:
    network, backend, computes = graphed()
    call(network, computes, *[8] * 4)
    backend.error = "launch"
    with pytest.warns(DelfEngineWarning, match="launch"):
        call(network, computes, *[8] * 4)
    assert (backend.captured, backend.replays) == ([8], 3)


def test_graphs_are_of_the_network_and_the_stream_as_they_are_now() -> None:
    network, backend, computes = graphed()
    call(network, computes, *[8] * 4)
    changes = [lambda: network.bfloat16().float(), lambda: setattr(backend, "where", "another stream")]
    for times, change in enumerate(changes, 2):
        change()
        call(network, computes, *[8] * (3 * times + 1))
        assert backend.captured == [8] * times
    replays = backend.replays
    hook = network.trunk.register_forward_hook(lambda *given: given[2] + 1)
    call(network, computes, *[8] * 20)
    hook.remove()
    network.train()
    call(network, computes, 8)
    network.eval()
    computes._process += 1
    call(network, computes, *[8] * 20)
    assert (len(backend.captured), backend.replays) == (3, replays)


def test_threads_take_turns() -> None:
    network, backend, computes = graphed()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: call(network, computes, *[8, 12, 16] * 3), range(16)))
    assert sorted(backend.captured) == [8, 12, 16]
    call(network, computes, *[8] * 6)  # the thread that captured is gone
    assert len(backend.captured) == 4


def test_features_are_the_same_bits_by_graphs_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = [random_photo(np.random.default_rng(i), *size) for i, size in enumerate([(200, 150), (150, 200)])]
    config = load_profile("default").extraction.model_copy(update={"precision": "fp32", "max_features": 50})
    extractor = Extractor(load_checkpoint("delf-r18")[0], config, device="cpu")
    extractor._extract_on_device()
    wanted = [extractor(one) for one in photos]
    backend: Any = Backend()
    extractor._on_device._network = GraphedNetwork(extractor.network, backend)  # type: ignore[union-attr]
    for _ in range(4):
        assert [extractor(one) for one in photos] == wanted
    assert backend.replays > len(backend.captured) > 0
    assert [pickle.loads(pickle.dumps(extractor))(one) for one in photos] == wanted  # noqa: S301
    begun, tried = DeviceExtraction._begun, []

    def short(self: DeviceExtraction, images: Any, head: Any) -> Any:
        tried.append(self._network is extractor.network)
        if not tried[-1]:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return begun(self, images, head)

    monkeypatch.setattr(DeviceExtraction, "_begun", short)
    assert [one for _, one in extractor.extract_many(photos, batch=1)] == wanted
    assert (tried[0], all(tried[1:])) == (False, True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or torch.version.hip is not None, reason="torch finds no CUDA")
@pytest.mark.parametrize("bf16", [False, True])
def test_a_card_replays_the_bits_of_the_network_and_waits_for_nothing(bf16: bool) -> None:
    network: Any = (
        load_checkpoint("delf-r18")[0].cuda().requires_grad_(False).to(memory_format=torch.channels_last)
    )
    network = with_bf16_trunk(network, native=True) if bf16 else network
    computes = GraphedNetwork(network, CudaGraphs(torch.cuda.Stream()))
    call(network, computes, *[64, 96, 128] * 4)
    assert len(computes._graphs) == 3
    call(network, computes, *[64, 96, 128] * 4)
    with torch.cuda.stream(torch.cuda.Stream()):
        call(network, computes, *[64, 96, 128] * 8)
    assert len(computes._graphs) == 3
    pixels = torch.zeros(1, 64, 64, 3, dtype=torch.uint8, device="cuda")
    with torch.inference_mode():
        computes.maps(pixels)  # on the stream of before: graphs are dropped
        for _ in range(9):
            computes.maps(pixels)
        torch.cuda.set_sync_debug_mode("error")
        try:
            computes.maps(pixels)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(computes._graphs) == 1
