from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import DataError
from delf_engine.evaluation.classes import ClassTruth, class_truth_of_folder, evaluate_classes
from helpers import raises

RANKS = (1, 5, 10)


def plain(
    ranking: list[int], query_class: str, own: int, classes: tuple[str, ...]
) -> tuple[float, list[float], list[float]] | None:
    """Average precision, recall@k and P@k of one query, one image after the other."""
    total = sum(name == query_class for i, name in enumerate(classes) if i != own)
    if not total:
        return None
    others = [image for image in ranking if image != own]
    right = [classes[image] == query_class for image in others]
    ap = sum(sum(right[:rank]) / rank for rank in range(1, len(right) + 1) if right[rank - 1]) / total
    return ap, [float(any(right[:k])) for k in RANKS], [sum(right[:k]) / k for k in RANKS]


@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 20), own=st.booleans())
def test_agrees_with_the_plain_protocol(seed: int, images: int, own: bool) -> None:
    rng = np.random.default_rng(seed)
    classes = tuple("abc"[i] for i in rng.integers(0, 3, images))
    names = tuple(f"im{i}" for i in range(images))
    queries = images if own else 4
    query_classes = classes if own else tuple("abcd")
    itself = np.arange(images) if own else np.full(4, -1)
    truth = ClassTruth(names, classes, tuple(f"im{i}" for i in range(queries)), query_classes, itself)
    rankings = [rng.permutation(images)[: rng.integers(0, images + 1)].tolist() for _ in range(queries)]
    figures = evaluate_classes(rankings, truth)
    expected = [plain(r, query_classes[q], int(itself[q]), classes) for q, r in enumerate(rankings)]
    for q, told in enumerate(expected):
        if told is None:
            assert np.isnan([figures.average_precision[q], *figures.recall[q], *figures.precision[q]]).all()
        else:
            row = [figures.average_precision[q], *figures.recall[q], *figures.precision[q]]
            np.testing.assert_allclose(np.array(row) / 100, [told[0], *told[1], *told[2]], rtol=0, atol=1e-12)
    found = [told for told in expected if told is not None]
    assert figures.evaluated == len(found)
    if found:
        assert abs(figures.mean_ap / 100 - sum(told[0] for told in found) / len(found)) < 1e-12
    else:
        assert math.isnan(figures.mean_ap)
    by_name = {truth.query_names[q]: [names[i] for i in r] for q, r in enumerate(rankings)}
    assert evaluate_classes(by_name, truth).to_dict() == figures.to_dict()
    without = [[i for i in r if i != itself[q]] for q, r in enumerate(rankings)]
    assert evaluate_classes(without, truth).to_dict() == figures.to_dict()


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def test_a_folder_of_classes(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "cat/1.jpg", "cat/deep/er.png", "dog/1.jpg", "dog/notes.txt")
    truth = class_truth_of_folder(folder)
    assert truth.names == truth.query_names == ("cat/1.jpg", "cat/deep/er.png", "dog/1.jpg")
    assert truth.classes == ("cat", "cat", "dog")
    assert [p.tolist() for p in truth.positives_of()] == [[1], [0], []]
    figures = evaluate_classes([[0, 2, 1], [1, 0, 2], [0]], truth)
    assert figures.average_precision.tolist()[:2] == [50, 100]
    assert figures.mean_recall == {1: 50.0, 5: 100.0, 10: 100.0}
    assert figures.mean_precision == {1: 50.0, 5: 20.0, 10: 10.0}
    assert "2 queries: mAP 75.00, recall@1 50.00" in repr(figures)
    assert json.loads(json.dumps(figures.to_dict(), allow_nan=False))["average_precision"]["dog/1.jpg"] is None
    paths = class_truth_of_folder(folder, paths=True)
    assert paths.names[0] == str(folder / "cat/1.jpg")
    assert paths.classes == truth.classes


def test_queries_of_their_own(tmp_path: Path) -> None:
    gallery = folder_of(tmp_path / "gallery", "cat/1.jpg", "cat/2.jpg")
    queries = folder_of(tmp_path / "queries", "cat/1.jpg", "cow/1.jpg")
    truth = class_truth_of_folder(gallery, queries=queries)
    assert truth.query_images.tolist() == [-1, -1]
    figures = evaluate_classes({"cat/1.jpg": ["cat/1.jpg", "cat/2.jpg"], "cow/1.jpg": []}, truth)
    assert figures.positives.tolist() == [2, 0]
    assert figures.mean_ap == 100  # the image of the same name is another photograph


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with raises(DataError):
        class_truth_of_folder(tmp_path / "gone")
    with raises(DataError):
        class_truth_of_folder(tmp_path)
    folder = folder_of(tmp_path, "cat/1.jpg", "loose.jpg")
    with raises(DataError, "loose.jpg", "/CLASS/loose.jpg"):
        class_truth_of_folder(folder)


def test_rankings_that_are_refused() -> None:
    truth = ClassTruth(("a", "b"), ("x", "y"), ("q",), ("x",), np.array([-1]))
    with raises(DataError, "'z'"):
        evaluate_classes([["z"]], truth)
    with raises(DataError, "image 0", "2 times"):
        evaluate_classes([["a", "a"]], truth)
