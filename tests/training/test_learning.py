"""Correspondences and losses against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from delf_engine.errors import ConfigError, DataError
from delf_engine.model.network import DelfNetwork, Projection
from delf_engine.training.batches import Batch, StageFacts, Step
from delf_engine.training.correspondence import (
    CellSample,
    cell_grid,
    cell_vectors,
    directions,
    project,
    sample_at,
    sample_cells,
)
from delf_engine.training.losses.contrast import Contrast, ContrastOptions, contrast, strongest
from delf_engine.training.losses.distillation import (
    Distillation,
    DistillationOptions,
    feature_distance,
)
from delf_engine.training.losses.match import Match, MatchOptions, match_labels
from delf_engine.training.projection import fit_pca, spread
from delf_engine.training.retrieval import mutual_similarity
from helpers import raises


@pytest.fixture(scope="module")
def network() -> DelfNetwork:
    torch.manual_seed(0)
    return DelfNetwork("resnet18", 8, hidden=4).eval()


def _sample(rng: np.random.Generator, n: int, pairs: int) -> CellSample:
    return CellSample(
        torch.from_numpy(np.sort(rng.integers(0, pairs, n))),
        torch.from_numpy(rng.integers(0, 36, n)),
        torch.from_numpy(rng.uniform(0, 80, (n, 2)).astype(np.float32)),
    )


def _unit(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return F.normalize(torch.from_numpy(rng.normal(size=shape)), dim=-1)


@pytest.mark.parametrize("groups", [None, [0, 1, 0]])
def test_contrast_equals_numpy(groups: list[int] | None) -> None:
    rng = np.random.default_rng(0)
    sample = _sample(rng, 12, 3)
    a, b = _unit(rng, 12, 5), _unit(rng, 12, 5)
    logits = (a @ b.T / 0.1).numpy()
    for i in range(12):
        for j in range(12):
            near = np.linalg.norm(sample.place[i].numpy() - sample.place[j].numpy()) < 30
            same_pair = sample.pair[i] == sample.pair[j]
            related = groups is not None and groups[sample.pair[i]] == groups[sample.pair[j]] and not same_pair
            if i != j and ((same_pair and near) or related):
                logits[i, j] = -np.inf

    def cross_entropy(m: np.ndarray) -> float:
        return float(np.mean([np.log(np.exp(m[i]).sum()) - m[i, i] for i in range(12)]))

    expected = (cross_entropy(logits) + cross_entropy(logits.T)) / 2
    given_groups = None if groups is None else torch.tensor(groups)
    got = contrast(a, b, sample, temperature=0.1, exclusion_px=30, groups=given_groups)
    assert float(got) == pytest.approx(expected, rel=1e-6)


@given(
    lengths=st.lists(st.sampled_from([0.0, 1.0, 1.0, 2.5, 1e18]), min_size=1, max_size=12),
    share=st.floats(0.01, 1.0),
)
def test_strongest_cells_take_part(lengths: list[float], share: float) -> None:
    n = len(lengths)
    sample = CellSample(torch.arange(n) % 3, torch.arange(n), torch.rand(n, 2))
    vectors = torch.tensor(lengths)[:, None] * F.one_hot(torch.arange(n) % 4, 4)
    kept = strongest(sample, vectors, share)
    want = sorted(sorted(range(n), key=lambda i: (-lengths[i], i))[: max(1, round(share * n))])
    assert kept.cell.tolist() == want
    torch.testing.assert_close(kept.place, sample.place[want])
    assert kept.pair.tolist() == [i % 3 for i in want]


@pytest.mark.parametrize("groups", [None, [5, 5, 2]])
def test_match_labels_equal_plain_loops(groups: list[int] | None) -> None:
    rng = np.random.default_rng(1)
    sample = _sample(rng, 30, 3)
    descriptors = torch.from_numpy(rng.normal(size=(30, 4)).astype(np.float32))
    gallery = torch.from_numpy(rng.normal(size=(3, 6, 4)).astype(np.float32))
    places = torch.from_numpy(rng.uniform(0, 80, (6, 2)).astype(np.float32))
    gallery[sample.pair[0], 2] = descriptors[0] * 10  # one that is surely found
    sample.place[0] = places[2]
    given_groups = None if groups is None else torch.tensor(groups)
    got = match_labels(descriptors, sample, gallery, places, correct_px=40, groups=given_groups)
    assert got[0]
    for n in range(30):
        mine = int(sample.pair[n])
        allowed = [b for b in range(3) if groups is None or b == mine or groups[b] != groups[mine]]
        best = max(((b, m) for b in allowed for m in range(6)), key=lambda k: float(descriptors[n] @ gallery[k]))
        right = best[0] == mine and float((places[best[1]] - sample.place[n]).norm()) <= 40
        assert bool(got[n]) == right


def _step(network: DelfNetwork, features: torch.Tensor, *, fitted: bool = True, **maps: torch.Tensor) -> Step:
    pairs = len(features) // 2
    batch = Batch({"conv4": features, **maps}, 64, homographies=np.tile(np.eye(3), (pairs, 1, 1)))
    return Step(batch, features, network, fitted, np.random.default_rng(0))


def _facts(*trains: str, fitted: bool = True, **channels: int) -> StageFacts:
    return StageFacts("pairs", None, fitted, frozenset(trains), channels)


def test_distillation_targets(network: DelfNetwork) -> None:
    torch.manual_seed(0)
    features = torch.randn(4, 256, 4, 4)
    teacher = torch.randn(4, 6, 4, 4)
    facts = _facts("layer3", start=256, big=6)
    step = _step(network, features, start=features * 2, big=teacher)

    def loss(**options: object) -> Distillation:
        given_options = DistillationOptions.model_validate({"kind": "distillation", **options})
        return Distillation(given_options, network, facts)

    assert float(loss()(step)) == pytest.approx(0.25)
    assert torch.isfinite(feature_distance(features, features * 0))
    regression = loss(teacher="big", target="descriptors")
    value = regression(step)
    value.backward()
    assert regression.regression.weight.grad is not None
    cells = F.normalize(features.permute(0, 2, 3, 1).reshape(-1, 256), dim=1)
    guess = F.normalize(regression.regression(cells), dim=1)
    wanted = F.normalize(teacher.permute(0, 2, 3, 1).reshape(-1, 6), dim=1)
    cosine = (guess * wanted).sum(1)
    assert float(value.detach()) == pytest.approx(float(1 - cosine.detach().mean()), rel=1e-5)
    half = loss(teacher="big", target="descriptors", best=0.5)
    half.regression.load_state_dict(regression.regression.state_dict())
    norms = features.permute(0, 2, 3, 1).reshape(-1, 256).norm(dim=1)
    assert float(half(step).detach()) == pytest.approx(
        float(1 - cosine.detach()[norms.topk(32).indices].mean()), rel=1e-5
    )
    with raises(ConfigError, "256"):
        loss(teacher="big")
    wrong = _step(network, features, start=features, big=teacher[:, :, :3])
    with raises(ConfigError):
        regression(wrong)


def test_losses_of_pairs_without_overlap_are_zero(network: DelfNetwork) -> None:
    features = torch.randn(4, 256, 4, 4, requires_grad=True)
    away = np.array([[1.0, 0, 5000], [0, 1, 0], [0, 0, 1]])
    batch = Batch({"conv4": features}, 64, homographies=np.stack([away, away]))
    step = Step(batch, features, network, True, np.random.default_rng(0))
    for loss in (
        Contrast(ContrastOptions(kind="contrast", cells=8), network, _facts("layer3")),
        Match(MatchOptions(kind="match"), network, _facts("attention")),
    ):
        value = loss(step)
        assert float(value.detach()) == 0
        value.backward()


def test_match_teaches_the_head_and_not_the_trunk(network: DelfNetwork) -> None:
    features = torch.randn(4, 256, 4, 4, requires_grad=True)
    network.zero_grad()
    Match(MatchOptions(kind="match"), network, _facts("attention"))(_step(network, features)).backward()
    assert features.grad is None
    assert network.attention.conv1.weight.grad is not None
    network.zero_grad()


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 6), st.integers(0, 2**31))
def test_sampling_equals_torch(height: int, width: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps = torch.from_numpy(rng.normal(size=(2, 3, height, width)))
    place = torch.from_numpy(rng.uniform(-20, 100, (n, 2)))
    pair = torch.from_numpy(rng.integers(0, 2, n))
    cell = torch.from_numpy(rng.integers(0, height * width, n))
    sample = CellSample(pair, cell, place)
    got, cells = sample_at(maps, sample, stride=16), cell_vectors(maps, sample)
    for i in range(n):
        assert torch.equal(cells[i], maps[pair[i]].flatten(1)[:, cell[i]])
        x, y = place[i].numpy() / 16
        sizes = torch.tensor([max(width - 1, 1), max(height - 1, 1)])
        grid = (torch.tensor([x, y]) / sizes * 2 - 1)[None, None, None]
        expected = F.grid_sample(maps[pair[i]][None], grid, align_corners=True, padding_mode="border")
        torch.testing.assert_close(got[i], expected[0, :, 0, 0])


def test_supports_limit_what_is_drawn() -> None:
    h = np.stack([np.eye(3)] * 3)
    supports = [np.array([[16.0, 16.0]]), None, np.full((2, 2), np.nan)]
    sample = sample_cells(
        h, (6, 6), size=96, stride=16, count=99, rng=np.random.default_rng(0), supports=supports, support_px=16
    )
    grid = cell_grid(6, 6, 16)
    drawn = [sorted(map(tuple, grid[sample.cell[sample.pair == i].numpy()].tolist())) for i in range(3)]
    assert drawn[0] == [(0, 16), (16, 0), (16, 16), (16, 32), (32, 16)]
    assert len(drawn[1]) == 36
    assert drawn[2] == []


def test_directions_are_inverse(network: DelfNetwork) -> None:
    rng = np.random.default_rng(0)
    h = np.stack([np.array([[1.1, 0.1, 4], [-0.1, 0.9, 2], [1e-4, 0, 1]]), np.eye(3)])
    points = rng.uniform(0, 64, (5, 2))
    features = torch.randn(4, 256, 4, 4)
    batch = Batch({}, 64, homographies=h, supports=[points, None], groups=np.array([3, 3]))
    forward, back = directions(Step(batch, features, network, True, rng))
    assert torch.equal(forward.first, features[:2])
    assert torch.equal(back.first, features[2:])
    np.testing.assert_allclose(forward.homographies @ back.homographies, np.stack([np.eye(3)] * 2), atol=1e-12)
    assert back.supports is not None
    assert back.supports[1] is None
    np.testing.assert_allclose(project(back.homographies[0], back.supports[0]), points, atol=1e-9)


def test_points_behind_the_horizon_have_no_place() -> None:
    h = np.array([[1.0, 0, 0], [0, 1, 0], [-0.1, 0, 1]])
    got = project(h, np.array([[0.0, 0], [10, 0], [20, 5]]))
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1:]).all()
    assert project(h, np.empty((0, 2))).shape == (0, 2)


@given(st.integers(1, 6), st.integers(0, 4), st.booleans(), st.integers(0, 2**31))
def test_mutual_similarity_equals_plain_loops(k: int, images: int, ties: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    draw = (lambda *s: rng.integers(-1, 2, s).astype(float)) if ties else (lambda *s: rng.normal(size=s))
    query, gallery = torch.from_numpy(draw(k, 3)), torch.from_numpy(draw(images, k, 3))
    got = mutual_similarity(query, gallery)
    for g in range(images):
        s = (gallery[g] @ query.T).numpy()
        expected = 0.0
        for q in range(k):
            best = int(s[:, q].argmax())
            if int(s[best].argmax()) == q:
                expected += max(s[best, q], 0) ** 3
        assert got[g] == pytest.approx(expected)


def test_pca_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 10)) @ rng.normal(size=(10, 10))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    projection = fit_pca(x, 4)
    assert isinstance(projection, Projection)
    expected = PCA(4, svd_solver="full").fit_transform(x)
    got = (torch.from_numpy(x) - projection.mean) @ projection.components.T
    np.testing.assert_allclose(np.abs(got.numpy()), np.abs(expected), atol=1e-4)
    with raises(DataError):
        fit_pca(x[:3], 4)


def test_spread_takes_first_and_last() -> None:
    names = [str(i) for i in range(10)]
    assert spread(names, None) == spread(names, 20) == names
    assert (spread(names, 1), spread(names, 2)) == (["0"], ["0", "9"])
    assert len(set(spread(names, 7))) == 7
