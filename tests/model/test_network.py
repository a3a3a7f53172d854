import numpy as np
import torch

from delf_engine.model.network import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    AttentionHead,
    DelfNetwork,
    Projection,
    normalise_images,
)


def test_attention_equals_numpy() -> None:
    torch.manual_seed(0)
    head = AttentionHead(6, hidden=5)
    features = torch.randn(2, 6, 3, 4)
    f = features.numpy().transpose(0, 2, 3, 1)
    w1, b1 = head.conv1.weight.detach().numpy()[:, :, 0, 0], head.conv1.bias.detach().numpy()
    w2, b2 = head.conv2.weight.detach().numpy()[0, :, 0, 0], head.conv2.bias.detach().numpy()
    logits = np.maximum(f @ w1.T + b1, 0) @ w2 + b2
    expected = np.log1p(np.exp(logits)) * np.linalg.norm(f, axis=3)
    np.testing.assert_allclose(head(features).detach().numpy(), expected, rtol=1e-5)
    head.norm_weighted = False
    np.testing.assert_allclose(head(features).detach().numpy(), np.log1p(np.exp(logits)), rtol=1e-5)


def test_projection_equals_numpy() -> None:
    rng = np.random.default_rng(0)
    projection = Projection(8, 3)
    projection.mean.copy_(torch.from_numpy(rng.normal(size=8)))
    projection.components.copy_(torch.from_numpy(rng.normal(size=(3, 8))))
    x = rng.normal(size=(5, 8)).astype(np.float32)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    y = (unit - projection.mean.numpy()) @ projection.components.numpy().T
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    np.testing.assert_allclose(projection(torch.from_numpy(x)).numpy(), y, rtol=1e-5, atol=1e-6)
    assert projection(torch.zeros(0, 8)).shape == (0, 3)
    assert float(Projection(4, 2)(torch.zeros(1, 4)).abs().sum()) == 0


def test_normalise_images() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 5, 7, 3), dtype=np.uint8)
    expected = ((pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD).transpose(0, 3, 1, 2)
    got = normalise_images(torch.from_numpy(pixels))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_network_shapes() -> None:
    network = DelfNetwork("resnet18", 40)
    features, scores = network(torch.zeros(1, 3, 33, 48))
    assert features.shape == (1, 256, 3, 3)
    assert scores.shape == (1, 3, 3)
    assert (network.dim, network.stride) == (40, 16)
