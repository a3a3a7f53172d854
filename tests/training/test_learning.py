import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from delf_engine.errors import DataError
from delf_engine.model.network import Projection
from delf_engine.training.correspondence import CellSample, cell_vectors, sample_at
from delf_engine.training.match_head import match_labels
from delf_engine.training.projection import fit_pca
from delf_engine.training.tuning import contrast, distillation


def _sample(rng: np.random.Generator, n: int, pairs: int) -> CellSample:
    return CellSample(
        torch.from_numpy(np.sort(rng.integers(0, pairs, n))),
        torch.from_numpy(rng.integers(0, 36, n)),
        torch.from_numpy(rng.uniform(0, 80, (n, 2)).astype(np.float32)),
    )


def test_contrast_equals_numpy() -> None:
    rng = np.random.default_rng(0)
    sample = _sample(rng, 12, 3)
    a, b = (torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(12, 5))), dim=1) for _ in range(2))
    logits = (a @ b.T / 0.1).numpy()
    for i in range(12):
        for j in range(12):
            near = np.linalg.norm(sample.place[i].numpy() - sample.place[j].numpy()) < 30
            if i != j and sample.pair[i] == sample.pair[j] and near:
                logits[i, j] = -np.inf

    def cross_entropy(m: np.ndarray) -> float:
        return float(np.mean([np.log(np.exp(m[i]).sum()) - m[i, i] for i in range(12)]))

    expected = (cross_entropy(logits) + cross_entropy(logits.T)) / 2
    assert float(contrast(a, b, sample, temperature=0.1, exclusion_px=30)) == pytest.approx(expected, rel=1e-6)


def test_distillation_is_relative() -> None:
    start = torch.full((1, 2, 2, 2), 2.0)
    assert float(distillation(start, start)) == 0
    assert float(distillation(start * 1.5, start)) == pytest.approx(0.25)


def test_match_labels_equal_plain_loops() -> None:
    rng = np.random.default_rng(1)
    sample = _sample(rng, 30, 3)
    descriptors = torch.from_numpy(rng.normal(size=(30, 4)).astype(np.float32))
    gallery = torch.from_numpy(rng.normal(size=(3, 6, 4)).astype(np.float32))
    places = torch.from_numpy(rng.uniform(0, 80, (6, 2)).astype(np.float32))
    gallery[sample.pair[0], 2] = descriptors[0] * 10  # one that is surely found
    sample.place[0] = places[2]
    got = match_labels(descriptors, sample, gallery, places, correct_px=40)
    assert got[0]
    for n in range(30):
        best = max(((b, m) for b in range(3) for m in range(6)), key=lambda k: float(descriptors[n] @ gallery[k]))
        right = best[0] == int(sample.pair[n]) and float((places[best[1]] - sample.place[n]).norm()) <= 40
        assert bool(got[n]) == right


def test_vectors_at_places() -> None:
    maps = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    sample = CellSample(
        torch.tensor([0, 1, 1]), torch.tensor([0, 7, 19]), torch.tensor([[0, 0], [32, 16], [40, 24.0]])
    )
    assert torch.equal(
        cell_vectors(maps, sample), torch.stack([maps[0, :, 0, 0], maps[1, :, 1, 2], maps[1, :, 3, 4]])
    )
    got = sample_at(maps, sample, stride=16)
    torch.testing.assert_close(got[0], maps[0, :, 0, 0])
    torch.testing.assert_close(got[1], maps[1, :, 1, 2])
    torch.testing.assert_close(got[2], maps[1, :, 1:3, 2:4].mean((1, 2)))


def test_pca_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 10)) @ rng.normal(size=(10, 10))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    projection = fit_pca(x, 4)
    assert isinstance(projection, Projection)
    expected = PCA(4, svd_solver="full").fit_transform(x)
    got = (torch.from_numpy(x) - projection.mean) @ projection.components.T
    np.testing.assert_allclose(np.abs(got.numpy()), np.abs(expected), atol=1e-4)
    with pytest.raises(DataError, match="needs more than 4 feature vectors, got 3"):
        fit_pca(x[:3], 4)
