"""Pooling and the two classification losses, against plain NumPy."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.config import parse_config
from delf_engine.errors import ConfigError
from delf_engine.model.network import DelfNetwork
from delf_engine.training.batches import Batch, StageFacts, Step
from delf_engine.training.losses.classification import ClassificationLoss, add_margin
from delf_engine.training.registry import LOSSES
from helpers import raises

Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def network() -> DelfNetwork:
    torch.manual_seed(0)
    return DelfNetwork("resnet18", 8, hidden=8, norm_weighted=False)


def _facts(n_classes: int | None) -> StageFacts:
    return StageFacts("labels", n_classes, fitted=False, trains=frozenset({"trunk"}))


def _loss(network: DelfNetwork, kind: str, n_classes: int | None = 5, **options: object) -> ClassificationLoss:
    found = LOSSES[kind]
    torch.manual_seed(1)
    loss = found(
        parse_config(found.Options, {"kind": kind, **options}, where="recipe"), network, _facts(n_classes)
    )
    assert isinstance(loss, ClassificationLoss)
    return loss


def _step(network: DelfNetwork, features: torch.Tensor, labels: list[int] | None) -> Step:
    given_labels = None if labels is None else torch.tensor(labels)
    batch = Batch({"conv4": features}, size=16 * features.shape[3], labels=given_labels)
    return Step(batch, features, network, fitted=False, rng=np.random.default_rng(0))


def _features(n: int = 4, seed: int = 0, height: int = 3, width: int = 2) -> torch.Tensor:
    values = np.random.default_rng(seed).gamma(1.0, 1.0, (n, 256, height, width)) - 0.5
    return torch.from_numpy(np.maximum(values, 0).astype(np.float32))


def _cross_entropy(logits: Floats, labels: list[int]) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-log_p[np.arange(len(labels)), labels].mean())


def _arcface(pooled: Floats, weight: Floats, labels: list[int], margin: float, scale: float) -> Floats:
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (pooled, weight)]
    angle = np.arccos(np.clip(unit[0] @ unit[1].T, -1, 1))
    for i, label in enumerate(labels):
        if angle[i, label] <= math.pi - margin:
            angle[i, label] += margin
    return scale * np.cos(angle)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_softmax_equals_numpy(network: DelfNetwork, pooling: str) -> None:
    loss = _loss(network, "softmax", pooling=pooling)
    with torch.no_grad():
        loss.weight.mul_(30)
        loss.bias.copy_(torch.linspace(-1, 1, 5))
    labels = [0, 4, 2, 2]
    step = _step(network, _features(), labels)
    cells = torch.ones(4, 3, 2) if pooling == "mean" else network.attention(step.features).detach()
    pooled = np.einsum("bcij,bij->bc", step.features.double().numpy(), cells.double().numpy()) / 6
    logits = pooled @ loss.weight.detach().double().numpy().T
    logits += np.linspace(-1, 1, 5)
    assert float(loss(step).detach()) == pytest.approx(_cross_entropy(logits, labels), rel=1e-5)
    accuracy = np.mean(logits.argmax(1) == labels)
    assert loss.measure(step) == {f"held-out classification accuracy, {pooling} pooling": accuracy}


@pytest.mark.parametrize(("margin", "scale"), [(0.1, 45.25), (0.0, 1.0), (0.5, 64.0), (3.1, 10.0)])
def test_arcface_equals_numpy(network: DelfNetwork, margin: float, scale: float) -> None:
    loss = _loss(network, "arcface", margin=margin, scale=scale)
    labels = [0, 4, 2, 2]
    step = _step(network, _features(), labels)
    pooled, weight = (x.detach().double().numpy() for x in (step.features.mean((2, 3)), loss.weight))
    expected = _arcface(pooled, weight, labels, margin, scale)
    assert float(loss(step).detach()) == pytest.approx(_cross_entropy(expected, labels), rel=1e-4)
    # Measured without the margin: it would count right answers as wrong.
    plain = _arcface(pooled, weight, labels, 0.0, scale)
    assert list(loss.measure(step).values()) == [np.mean(plain.argmax(1) == labels)]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6), st.floats(0, 3.1), st.data())
def test_margin_equals_angles(row: list[float], margin: float, data: st.DataObject) -> None:
    label = data.draw(st.integers(0, len(row) - 1))
    cosines = torch.tensor([row], dtype=torch.float32, requires_grad=True)
    got = add_margin(cosines, torch.tensor([label]), margin)
    expected = cosines.detach().double().numpy().copy()
    own = float(expected[0, label])
    if abs(own + math.cos(margin)) > 1e-6:  # at the very edge rounding decides
        if math.acos(own) <= math.pi - margin:
            expected[0, label] = math.cos(math.acos(own) + margin)
        np.testing.assert_allclose(got.detach().numpy(), expected, atol=1e-3)  # the root is cut off at 1e-7
    got.sum().backward()
    assert cosines.grad is not None
    assert torch.isfinite(cosines.grad).all()


@pytest.mark.parametrize("kind", ["softmax", "arcface"])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e15])
def test_loss_and_gradient_are_finite_for_any_features(network: DelfNetwork, kind: str, size: float) -> None:
    loss = _loss(network, kind)
    features = (_features() * size).requires_grad_()
    value = loss(_step(network, features, [0, 1, 2, 3]))
    value.backward()
    assert torch.isfinite(value)
    for tensor in (features, *loss.parameters()):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("kind", ["softmax", "arcface"])
def test_attention_pooling_trains_the_attention_and_not_the_trunk(network: DelfNetwork, kind: str) -> None:
    loss = _loss(network, kind, pooling="attention")
    network.zero_grad()
    loss(_step(network, _features(), [0, 1, 2, 3])).backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert set(gradients) == {
        f"attention.{n}" for n in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias")
    }
    assert all(g.abs().max() > 0 for g in gradients.values())
    network.zero_grad()
    _loss(network, kind, pooling="mean")(_step(network, _features(), [0, 1, 2, 3])).backward()
    assert all(p.grad is None for p in network.attention.parameters())


def test_reduced_precision_around_the_loss_changes_nothing(network: DelfNetwork) -> None:
    step = _step(network, _features(), [0, 1, 2, 3])
    loss = _loss(network, "arcface", pooling="attention")
    plain, figures = float(loss(step).detach()), loss.measure(step)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(loss(step).detach()) == plain
        assert loss.measure(step) == figures


@pytest.mark.parametrize("kind", ["softmax", "arcface"])
def test_stages_that_cannot_work(network: DelfNetwork, kind: str) -> None:
    for n_classes, said in ((None, "no labels"), (1, "1")):
        with raises(ConfigError, f"'{kind}'", said):
            _loss(network, kind, n_classes)
    with raises(ConfigError):
        _loss(network, kind)(_step(network, _features(), None))
    with raises(ConfigError, "'pooling'"):
        _loss(network, kind, poling="mean")
    with raises(ConfigError):
        _loss(network, kind, pooling="max")
