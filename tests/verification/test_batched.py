"""Pairs verified at once as tensors: the matches of `PairVerifier` to the bit, and its counts."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from delf_engine.errors import ConfigError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.matching import PreparedDescriptors, match_prepared
from delf_engine.matching import batched as matching
from delf_engine.verification import (
    BatchVerifier,
    PairVerifier,
    Verification,
    batched,
    evidence_of_pairs,
    fine_evidence,
    shards,
    tensors,
    verify_pairs,
)
from delf_engine.verification.batched import Pair
from delf_engine.verification.fine import FinePair, fine_matches
from helpers import planes_decide, raises, random_features
from verification.test_overlays import dressed
from verification.test_pair_verifier import config, many, seen_again

COUNTS = ("inliers", "putative", "overlay", "effective_inliers")
KINDS = ("photograph", "grid", "one place", "far apart", "tiny and huge")


@pytest.fixture(scope="module", autouse=True)
def cpu_for_a_card() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batched, "CARDS", {"cuda", "cpu"})
        assert BatchVerifier(device="cpu").on_card
        yield


def on_device(pairs: Sequence[Pair], device: str = "cpu", **options: Any) -> list[Verification]:
    return verify_pairs(pairs, config=config(**options), exponent=2.0, device=device)


def expected_of(pairs: Sequence[Pair], **options: Any) -> list[Verification]:
    return [PairVerifier(a, config=config(**options), exponent=2.0)(b) for a, b in pairs]


def assert_alike(found: Sequence[Verification], expected: Sequence[Verification]) -> None:
    """The same evidence; real numbers but for rounding of float64."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert {name: getattr(one, name) for name in COUNTS} == {name: getattr(other, name) for name in COUNTS}
        np.testing.assert_array_equal(one.matches, other.matches)
        np.testing.assert_array_equal(one.similarities, other.similarities)
        assert one.similarity == pytest.approx(other.similarity, rel=1e-12, abs=1e-12)
        assert (one.transform is None) == (other.transform is None)
        if one.transform is not None and other.transform is not None:
            np.testing.assert_allclose(one.transform, other.transform, rtol=1e-6, atol=1e-5)
            assert one.error_px == pytest.approx(other.error_px, rel=1e-6, abs=1e-6)
        fixed = ("model", "estimator", "residual_px", "reference_size", "min_inliers", "exponent", "probability")
        assert [getattr(one, name) for name in fixed] == [getattr(other, name) for name in fixed]


def pair_of(rng: np.random.Generator, kind: str, n: int, dim: int) -> Pair:
    """Two views that share some features; few descriptors are different where `dim` is small."""
    a = random_features(rng, n, dim)
    coarse = dim < 8
    descriptors = rng.choice([-1.0, 0.0, 1.0], (n, dim)) + [1e-3] * dim if coarse else a.descriptors
    places = {
        "photograph": a.keypoints,
        "grid": rng.integers(0, 20, (n, 2)) * 24.0,
        "one place": np.full((n, 2), 7.0),
        "far apart": a.keypoints * 1e4,
        "tiny and huge": a.keypoints * 1e20,
    }[kind]
    scales = 10.0 ** rng.integers(-20, 20, n) if kind == "tiny and huge" else a.scales
    norms = np.linalg.norm(descriptors, axis=1, keepdims=True)
    a = LocalFeatures(places, scales, a.scores, descriptors / norms, a.image_size)
    b = seen_again(rng, a, int(rng.integers(0, n + 1)), noise=0.0 if coarse else 0.03)
    return (a, b) if rng.random() < 0.8 else (b, random_features(rng, int(rng.integers(0, 5)), dim))


@given(
    seed=st.integers(0, 2**32 - 1),
    kinds=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 60)), max_size=6),
    dim=st.sampled_from([2, 40]),
    options=st.fixed_dictionaries(
        {
            "mutual": st.booleans(),
            "ratio": st.sampled_from([None, 0.9, 1.0]),
            "max_distance": st.sampled_from([None, 0.8]),
            "residual_px": st.sampled_from([24.0, 3.0, 1e-9, 1e9]),
            "reference_size": st.sampled_from([None, 300]),
        }
    ),
)
@settings(max_examples=60, deadline=None)
def test_any_pairs_get_what_each_gets_alone(
    seed: int, kinds: list[tuple[str, int]], dim: int, options: dict[str, Any]
) -> None:
    rng = np.random.default_rng(seed)
    pairs = [pair_of(rng, kind, n, dim) for kind, n in kinds]
    assert_alike(on_device(pairs, **options), expected_of(pairs, **options))


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), m=st.integers(1, 40), mutual=st.booleans())
@settings(max_examples=40, deadline=None)
def test_ties_go_to_the_lowest_index(seed: int, n: int, m: int, mutual: bool) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.choice([-1.0, 1.0, 1.0 + 2**-22], (rows, 3)).astype(np.float32) for rows in (n, m))
    sides = [PreparedDescriptors(x / np.linalg.norm(x, axis=1, keepdims=True), "X", "float32") for x in (a, b)]
    rules: dict[str, Any] = {"mutual": mutual, "ratio": None, "max_distance": 1.0}
    expected = match_prepared(*sides, **rules)
    units = [torch.from_numpy(side.unit)[None] for side in sides]
    own = [torch.ones(1, rows, dtype=torch.bool) for rows in (n, m)]
    found = matching.match_batch(*units, *own, **rules)
    rows = found.kept[0].nonzero()[:, 0]
    np.testing.assert_array_equal(torch.stack([rows, found.place[0, rows]], 1), expected.pairs)
    np.testing.assert_array_equal(found.similarity[0, rows], expected.similarities)
    np.testing.assert_array_equal(found.similarity[0, found.mutual[0]], expected.mutual_similarities)


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=4),
    dim=st.sampled_from([3, 128]),
    ratio=st.sampled_from([0.85, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_codes_are_matched_to_the_bit(seed: int, sizes: list[tuple[int, int]], dim: int, ratio: float) -> None:
    rng = np.random.default_rng(seed)
    several = {3: [-1.0, 1.0, 1.0 + 2**-6], 128: np.linspace(0.001, 1, 7) ** 4}[
        dim
    ]  # with ties, and like RootSIFT
    pairs = []
    for rows in sizes:
        a, b = (rng.choice(several, (n, dim)).astype(np.float32) for n in rows)
        b[: len(a) // 2] = a[: len(b)][: len(a) // 2]
        units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
        pairs.append((PreparedDescriptors(units[0], "A", "uint8"), PreparedDescriptors(units[1], "B", "uint8")))
    found = matching.match_codes(pairs, ratio=ratio, device=torch.device("cpu"))
    for pair, rows_found in zip(pairs, found, strict=True):
        np.testing.assert_array_equal(rows_found, match_prepared(*pair, mutual=True, ratio=ratio).pairs)
        assert rows_found.dtype == np.int32


@pytest.mark.parametrize("memory", [True, False])
def test_fine_evidence_is_that_of_each_pair(memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    a, small = random_features(rng, 200, 128), random_features(rng, 50, 128, (120, 90))
    pairs = [(a, b) for b in (seen_again(rng, a, 150), small, seen_again(rng, a, 0), a, a.top(1), a.top(0))]
    pairs += [(b, a) for a, b in pairs] + [(dressed(0, worn=80, dim=128), dressed(1, worn=80, dim=128))]
    expected = [fine_evidence(a, b, seed=5) for a, b in pairs]
    assert max(found.planar for found in expected) > 100
    for (a, b), found in zip(pairs, expected, strict=True):
        again, points = fine_matches(a, b, seed=5)
        assert (again, points.shape, points.dtype) == (found, (found.details, 4), np.float64)
        np.testing.assert_array_equal(points[:, [2, 3, 0, 1]], fine_matches(b, a, seed=5)[1])
    points = fine_matches(*pairs[0], seed=5)[1]
    mapped = np.insert(points[:, :2], 2, 1, axis=1) @ np.array(expected[0].homography).T
    np.testing.assert_allclose(mapped[:, :2] / mapped[:, 2:], points[:, 2:], atol=3)
    monkeypatch.setattr(*((FinePair, "matches", None) if memory else (matching, "match_codes", out_of_memory)))
    assert evidence_of_pairs(pairs, seed=5, device="auto") == expected


def test_fine_features_of_several_dimensions_are_matched_on_the_host() -> None:
    a, b = (random_features(np.random.default_rng(9), 30, dim) for dim in (64, 128))
    assert evidence_of_pairs([(a, a), (b, b)], device="auto") == [fine_evidence(x, x) for x in (a, b)]
    assert evidence_of_pairs([], device="auto") == []
    with raises(MismatchError, "64", "128"):
        evidence_of_pairs([(a, b)], device="auto")


def out_of_memory(*_: object, **__: object) -> Any:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def test_what_does_not_fit_is_halved_and_left_to_the_host_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    verify, sizes = shards.verify_batch, []
    a, others = many(1, 100)
    pairs = [(a, b) for b in others[:6]]

    def limited(shard: Any, some: Sequence[Pair], *more: Any) -> Any:
        sizes.append(len(some))
        return verify(shard, some, *more) if len(some) <= limit else out_of_memory()

    monkeypatch.setattr(shards, "verify_batch", limited)
    for limit in (3, 0):  # noqa: B007  # `limited` sees it
        assert_alike(on_device(pairs), expected_of(pairs))
    assert sizes == [6, 3, 3, 6, 3, 1, 2, 1, 1, 3, 1, 2, 1, 1]


def test_a_pair_is_the_same_in_any_batch_and_either_way_round() -> None:
    a, others = many(3)
    pairs = [(a, b) for b in others]
    together = on_device(pairs)
    assert_alike(together, expected_of(pairs))
    assert_alike([on_device([pair])[0] for pair in pairs], together)
    assert_alike(on_device(pairs[::-1]), together[::-1])
    back = on_device([(b, a) for a, b in pairs])
    assert [found.inliers for found in back] == [found.inliers for found in together]
    assert [found.matches[:, ::-1].tolist() for found in back] == [
        found.matches[np.argsort(found.matches[:, 1], kind="stable")].tolist() for found in together
    ]


def test_overlays_do_not_count_and_copies_do() -> None:
    worn = [dressed(seed, worn=40) for seed in range(3)]
    pairs = [(worn[0], worn[1]), (worn[1], worn[0]), (worn[0], worn[0]), (worn[1], worn[2])]
    found = on_device(pairs)
    assert_alike(found, expected_of(pairs))
    assert [each.overlay > 0 for each in found] == [True, True, False, True]


@pytest.mark.parametrize(
    "options", [{"precision": "uint8"}, {"estimator": "ransac"}, {"model": "homography", "estimator": "ransac"}]
)
def test_other_ways_are_verified_on_the_host(options: dict[str, Any]) -> None:
    a, others = many(1, 100)
    pairs = [(a, b) for b in others[:4]]
    assert on_device(pairs, **options) == expected_of(pairs, **options)


def test_without_a_card_pairs_are_verified_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "CARDS", {"cuda"})
    a, others = many(1)
    pairs = [*((a, b) for b in others), (others[0], a)]
    assert on_device(pairs) == expected_of(pairs)


def test_dimensions_may_differ_from_pair_to_pair_but_not_within_one() -> None:
    rng = np.random.default_rng(0)
    pairs = [pair_of(rng, "photograph", 30, dim) for dim in (8, 40, 8)]
    assert_alike(on_device(pairs), expected_of(pairs))
    with raises(MismatchError, "8", "40"):
        on_device([*pairs, (pairs[0][0], pairs[1][0])])


def test_the_calibration_judges() -> None:
    a, others = many(2)
    calibration = planes_decide()
    found = verify_pairs([(a, b) for b in others], config=config(), calibration=calibration, device="cpu")
    assert [f.verdict for f in found] == [
        calibration.judged(PairVerifier(a, config=config())(b)).verdict for b in others
    ]


@pytest.mark.parametrize("options", [{"device": "tpu"}, {"device": "cuda:99"}, {"seed": -1}, {"exponent": 0.0}])
def test_what_is_out_of_range_is_refused_at_once(options: dict[str, Any]) -> None:
    with raises(ConfigError, str(next(iter(options.values())))):
        verify_pairs([], **{"device": "cpu", **options})


def test_little_room_on_the_device_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, others = many(4, 100)
    pairs = [(a, b) for b in others]
    expected = on_device(pairs)
    monkeypatch.setattr(shards, "share_of", lambda device: 60_000)  # about 350 features
    monkeypatch.setattr(matching, "_TIES_BYTES", 1)
    monkeypatch.setattr(batched, "_shards", {})
    assert_alike(on_device(pairs), expected)
    assert_alike(on_device(pairs), expected)


def test_images_are_kept_while_they_live() -> None:
    shard = shards.Shard(torch.device("cpu"), 8)
    rng = np.random.default_rng(0)
    images = [random_features(rng, n, 8) for n in (3, 0, 20_000)]  # more rows than there are at first
    places = shard.places([images[0], images[1], images[0]])
    assert places[0] == places[2]
    assert shard.places(images)[:2] == places[:2]
    rows, geometry, own = shard.rows(torch.tensor([places[0].start]), torch.tensor([3]), 5)
    np.testing.assert_array_equal(rows[0, :3], PreparedDescriptors(images[0].descriptors, "A", "float32").unit)
    np.testing.assert_array_equal(geometry[0, :3, :2], images[0].keypoints)
    assert own.tolist() == [[True] * 3 + [False] * 2]
    del images
    gc.collect()
    again = random_features(rng, 3, 8)
    assert shard.places([again])[0].start == 20_003


@pytest.mark.parametrize("how", ["allow_tf32", "medium", "fp32_precision"])
def test_rounded_products_are_not_used(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "fp32_precision" and not hasattr(torch.backends, how):
        pytest.skip("torch before 2.9")
    matmul: Any = torch.backends.cuda.matmul

    def state() -> Any:
        return torch.get_float32_matmul_precision() if how == "medium" else getattr(matmul, how)

    def allow(value: Any) -> None:
        torch.set_float32_matmul_precision(value) if how == "medium" else setattr(matmul, how, value)

    seen: list[bool] = []
    multiply = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *both: (seen.append(matmul.allow_tf32), multiply(*both))[1])
    a, others = many(5, 100)
    before, on = state(), {"allow_tf32": True, "medium": "medium", "fp32_precision": "tf32"}[how]
    allow(on)
    try:
        on_device([(a, others[0])])
        assert state() == on
    finally:
        allow(before)
    assert seen == [False]


def test_modes_of_the_caller_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "_shards", {})
    a, others = many(6, 100)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert_alike(on_device([(a, others[2])]), expected_of([(a, others[2])]))
    pairs = [(a, b) for b in others]  # goes on with the table that was made in that mode
    assert_alike(on_device(pairs), expected_of(pairs))


def test_kernels_keep_to_their_device_and_do_not_wait_for_it() -> None:
    with FakeTensorMode():  # knows of devices, not of values
        points = torch.rand(3, 40, 4, dtype=torch.float64, device="cuda:1")
        own = torch.ones(3, 8, 40, dtype=torch.bool, device="cuda:1")
        sizes = points[:, :2, :2]
        found = [
            *tensors._optimise(points, own[:, 0], own, 1.0),
            tensors._support(points.float(), points[..., 0].float(), own[:, 0], 1.0, 1.0),
            tensors._degenerate(points, own[:, 0], 3),
            tensors.occupied_bins(points[..., :2], own[:, 0], 3.0),
            shards._stands_still(points.unflatten(2, (2, 2)), sizes),
            shards._in_pixels(points[:, :2, :3], *points[:, 0, :, None].unbind(1)),
        ]
    assert {str(each.device) for each in found} == {"cuda:1"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_card_agrees_with_the_cpu() -> None:
    rng = np.random.default_rng(6)
    pairs = [pair_of(rng, kind, n, dim) for kind in KINDS[:3] for n in (0, 1, 30, 300) for dim in (2, 40)]
    a, others = many(6, 300)
    pairs += [(a, b) for b in others] + [(dressed(0, worn=40), dressed(1, worn=40))]
    assert BatchVerifier(device="cuda").on_card
    found, expected = on_device(pairs, "cuda"), expected_of(pairs)
    off = [abs(one.inliers - other.inliers) for one, other in zip(found, expected, strict=True)]
    assert max(off) <= 1
    assert np.count_nonzero(off) <= 1
    assert [one.putative for one in found] == [other.putative for other in expected]
    fine = [(random_features(rng, n, 128), random_features(rng, n, 128)) for n in (0, 1, 500)]
    assert evidence_of_pairs(fine, device="cuda") == [fine_evidence(a, b) for a, b in fine]
