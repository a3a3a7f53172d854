"""Losses on global descriptors against plain NumPy, their gradients, and stages that train the descriptor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from delf_engine.config import parse_config
from delf_engine.errors import ConfigError
from delf_engine.model.network import DelfNetwork, GlobalLayer
from delf_engine.training.batches import Batch, StageFacts, Step
from delf_engine.training.global_head import GlobalHeadConfig, finished_head, start_layer
from delf_engine.training.losses import vectors as losses
from delf_engine.training.registry import LOSSES
from helpers import raises

PLACES = {"all differ": [0, 1, 2, 3], "two alike": [0, 1, 0, 2], "one place": [5, 5, 5, 5]}


def _vectors(pairs: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.from_numpy(np.random.default_rng(seed).normal(size=(2 * pairs, 3))), dim=1)


def _negatives(x: np.ndarray, place: list[int], i: int, hardest: int) -> list[float]:
    return sorted(float(np.sum((x[i] - x[j]) ** 2)) for j in range(len(x)) if place[j] != place[i])[:hardest]


def contrastive(x: np.ndarray, place: list[int], margin: float, hardest: int) -> float:
    total = 0.0
    for i in range(len(x)):
        total += np.sum((x[i] - x[(i + len(x) // 2) % len(x)]) ** 2) / 2
        total += sum(max(0, margin - d**0.5) ** 2 / 2 for d in _negatives(x, place, i, hardest))
    return total / len(x)


def triplet(x: np.ndarray, place: list[int], margin: float, hardest: int) -> float:
    total = 0.0
    for i in range(len(x)):
        own = np.sum((x[i] - x[(i + len(x) // 2) % len(x)]) ** 2)
        total += sum(max(0, margin + own - d) for d in _negatives(x, place, i, hardest))
    return total / len(x)


def ranking(x: np.ndarray, place: list[int], margin: float, hardest: int) -> float:
    total = 0.0
    for i in range(len(x)):
        best = min(np.sum((x[i] - x[j]) ** 2) for j in range(len(x)) if place[j] == place[i] and j != i)
        total += sum(max(0, margin + best - d) for d in _negatives(x, place, i, hardest))
    return total / len(x)


def clusters(x: np.ndarray, place: list[int], margin: float) -> float:
    total = 0.0
    for one in set(place):
        members = [i for i in range(len(x)) if place[i] == one]
        centre = x[members].mean(0)
        others = [np.sum((x[i] - centre) ** 2) for i in range(len(x)) if place[i] != one]
        for i in members:
            total += max(0, margin + np.sum((x[i] - centre) ** 2) - min(others, default=np.inf)) / 2
    return total / len(x)


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("hardest", [1, 3, 50])
@pytest.mark.parametrize(
    ("found", "wanted"),
    [(losses.contrastive, contrastive), (losses.triplet, triplet), (losses.ranking, ranking)],
)
def test_they_equal_numpy(
    found: Callable[..., torch.Tensor], wanted: Callable[..., float], hardest: int, places: str
) -> None:
    place = PLACES[places] * 2
    for seed in range(3):
        x = _vectors(4, seed)
        got = float(found(x, torch.tensor(place), margin=1.2, hardest=hardest))
        assert got == pytest.approx(wanted(x.numpy(), place, 1.2, hardest), abs=1e-5)


@pytest.mark.parametrize("places", PLACES)
def test_coupled_clusters_equal_numpy(places: str) -> None:
    place = PLACES[places] * 2
    x = _vectors(4)
    got = float(losses.coupled_clusters(x, torch.tensor(place), margin=0.9))
    assert got == pytest.approx(clusters(x.numpy(), place, 0.9), abs=1e-9)


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("name", ["contrastive", "triplet", "ranking", "coupled_clusters"])
def test_their_gradients(name: str, places: str) -> None:
    options: dict[str, Any] = {"margin": 1.3} if name == "coupled_clusters" else {"margin": 1.3, "hardest": 2}
    place = torch.tensor(PLACES[places] * 2)
    x = _vectors(4, seed=7).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: getattr(losses, name)(v, place, **options), x)


@pytest.mark.parametrize("name", ["contrastive", "triplet", "ranking", "coupled_clusters"])
def test_equal_images_have_finite_gradients(name: str) -> None:
    options: dict[str, Any] = {"margin": 0.5} if name == "coupled_clusters" else {"margin": 0.5, "hardest": 2}
    x = torch.ones(4, 3).requires_grad_()
    getattr(losses, name)(F.normalize(x, dim=1), torch.tensor([0, 1, 0, 1]), **options).backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


@pytest.fixture
def network() -> DelfNetwork:
    torch.manual_seed(0)
    network = DelfNetwork("resnet18", 8, hidden=4).eval()
    network.global_layer = GlobalLayer(256, 5)
    return network


def _facts(kind: Any = "pairs", trains: tuple[str, ...] = ("global",)) -> StageFacts:
    return StageFacts(kind, 3 if kind == "labels" else None, fitted=False, trains=frozenset(trains))


def _loss(kind: str, network: DelfNetwork, facts: StageFacts, **options: object) -> Any:
    found = LOSSES[kind]
    return found(parse_config(found.Options, {"kind": kind, **options}, where="recipe"), network, facts)


def _step(network: DelfNetwork, **given: Any) -> Step:
    features = torch.from_numpy(np.random.default_rng(0).gamma(1.0, 1.0, (6, 256, 3, 2)).astype(np.float32))
    batch = Batch({"conv4": features}, size=48, **given)
    return Step(batch, features.requires_grad_(), network, fitted=False, rng=np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["global_contrastive", "global_triplet", "netvlad_ranking", "coupled_clusters"])
def test_a_loss_sees_the_places_of_its_pairs(network: DelfNetwork, kind: str) -> None:
    loss = _loss(kind, network, _facts(), margin=1.5)
    step = _step(network, groups=np.array([4, 9, 4]))
    functions = {"global_contrastive": losses.contrastive, "global_triplet": losses.triplet}
    functions |= {"netvlad_ranking": losses.ranking, "coupled_clusters": losses.coupled_clusters}
    more = {} if kind == "coupled_clusters" else {"hardest": 5}
    wanted = functions[kind](step.global_vectors(), torch.tensor([4, 9, 4] * 2), margin=1.5, **more)
    assert torch.equal(loss(step), wanted)
    loss(step).backward()
    assert network.global_layer is not None
    assert all(p.grad is not None for p in network.global_layer.parameters())
    with raises(ConfigError, kind, "global"):
        _loss(kind, network, _facts(trains=("layer3",)))


def test_classification_of_the_global_descriptor(network: DelfNetwork) -> None:
    """DELG's joint form: the trunk learns from the global loss, and not from that of the attention."""
    facts, labels = _facts("labels", ("layer3", "global", "attention")), torch.tensor([0, 1, 2, 0, 1, 2])
    arcface = _loss("arcface", network, facts, pooling="global")
    step = _step(network, labels=labels)
    assert arcface.weight.shape == (3, 5)
    assert torch.equal(arcface.pool(step), step.global_vectors())
    local = _loss("softmax", network, facts, pooling="attention", detached=True)
    local(step).backward()
    assert step.features.grad is None
    assert network.attention.conv1.weight.grad is not None  # type: ignore[union-attr]
    arcface(step).backward()
    assert step.features.grad is not None
    with raises(ConfigError, "arcface", "global"):
        _loss("arcface", network, _facts("labels", ("layer3",)), pooling="global")


def test_a_layer_begins_as_fitted_and_ends_as_a_head() -> None:
    rng = np.random.default_rng(0)
    config = GlobalHeadConfig(dim=5, levels=1)
    layer = GlobalLayer(7, 5)
    with torch.no_grad():
        layer.p.fill_(2.5)
    head = finished_head(layer, config, "m@1")
    again = GlobalLayer(7, 5)
    start_layer(again, head)
    features = torch.from_numpy(rng.gamma(1.0, 1.0, (1, 7, 4, 3)).astype(np.float32))
    cells = features[0].flatten(1).T
    with torch.no_grad():
        wanted = layer(features)[0].numpy()
        np.testing.assert_allclose(again(features)[0].numpy(), wanted, atol=1e-5)
    np.testing.assert_allclose(head([(cells, np.ones((4, 3), np.float32))]), wanted, atol=1e-5)
    assert (head.levels, head.model, head.dim) == (1, "m@1", 5)
