from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.copies import Copies, Copy, dismiss
from delf_engine.copies.result import read_dismissed
from delf_engine.errors import ConfigError, FormatError
from helpers import raises

SQUARE = ((0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0))


@pytest.fixture
def found(tmp_path: Path) -> Copies:
    """Two thumbnails, their original, a crop of it, a page that shows it; changed in the order of their names."""
    names = {"a_thumb": 8, "b_thumb": 8, "c_whole": 100, "d_crop": 50, "e_page": 200, "f_alone": 1}
    for time, name in enumerate(names):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time, time))
    a, b, c, d, e, _ = (str(tmp_path / name) for name in names)
    return Copies(
        {str(tmp_path / name): (side, side) for name, side in names.items()},
        (
            Copy("copy", c, a, 0.99, SQUARE, SQUARE),
            Copy("exact", a, b, 1.0, SQUARE, SQUARE),
            Copy("crop", c, d, 0.98, SQUARE, SQUARE),
            Copy("embedded", e, c, 0.97, SQUARE, SQUARE),
        ),
    )


def listed(found: Copies, keep: str) -> dict[str, str]:
    return {os.path.basename(name): os.path.basename(kept) for name, kept in found.superfluous(keep)}


def test_clusters_and_boxes(found: Copies) -> None:
    (cluster,) = found.clusters
    assert [os.path.basename(name) for name in cluster] == ["a_thumb", "b_thumb", "c_whole", "d_crop", "e_page"]
    assert found.copies[0].box_a == (0, 0, 10, 10)
    assert Copy("place", "a", "b", 0.9).box_b is None
    assert json.loads(json.dumps(found.to_dict()))["copies"][2]["box_a"] == [0, 0, 10, 10]
    assert "d_crop: a crop of" in str(found)


def test_what_is_superfluous_is_shown_by_what_is_kept(found: Copies) -> None:
    # The page is largest, but shows the photograph smaller than it is.
    assert listed(found, "largest") == {"a_thumb": "c_whole", "b_thumb": "c_whole", "d_crop": "c_whole"}
    # A crop that comes later is shown by the whole, and that by the thumbnail which is kept.
    assert listed(found, "oldest") == {"b_thumb": "a_thumb", "c_whole": "a_thumb", "d_crop": "a_thumb"}
    assert listed(found, "first") == listed(found, "oldest")


def test_a_whole_is_never_superfluous_for_its_crop(found: Copies) -> None:
    wholes = Copies(found.photographs, (found.copies[2],))
    order = dict(sorted(found.photographs.items(), reverse=True))  # the crop first
    assert Copies(order, wholes.copies).superfluous("first") == []
    assert list(listed(wholes, "first")) == ["d_crop"]


def test_rules_and_photographs_that_are_not_there(found: Copies) -> None:
    with raises(ConfigError, "smallest", "largest"):
        found.superfluous("smallest")
    os.unlink(next(iter(found.photographs)))
    with raises(FormatError, "a_thumb"):
        found.superfluous("oldest")


@given(st.lists(st.lists(st.text("aß\n\"' \udce9", min_size=1), min_size=2, max_size=3, unique=True)))
def test_what_is_dismissed_is_remembered(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("dismissed")
    expected = set()
    for names in groups:
        paths = [str(folder / "photos" / f"x{name}") for name in names]
        expected |= {frozenset((a, b)) for a in paths for b in paths if a != b}
        assert dismiss(folder / "not.jsonl", paths) == len(expected)
        assert read_dismissed(folder / "not.jsonl") == expected


def test_dismissed_pairs_move_with_their_file(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    dismiss(tmp_path / "old" / "not.jsonl", [tmp_path / "old" / "a.jpg", tmp_path / "old" / "b.jpg"])
    (tmp_path / "old").rename(tmp_path / "new")
    (pair,) = read_dismissed(tmp_path / "new" / "not.jsonl")
    assert pair == {str(tmp_path / "new" / "a.jpg"), str(tmp_path / "new" / "b.jpg")}


def test_what_cannot_be_dismissed(tmp_path: Path) -> None:
    with raises(ConfigError, "1"):
        dismiss(tmp_path / "not.jsonl", ["a.jpg", "a.jpg"])
    with raises(FormatError, "missing.jsonl"):
        read_dismissed(tmp_path / "missing.jsonl")
    for text in ("[1, 2]", "{}", '["a"]', "no json", '["a", "b", "c"]', "\xff"):
        (tmp_path / "bad.jsonl").write_text(f'["a", "b"]\n{text}\n', encoding="latin-1")
        with raises(FormatError, "bad.jsonl", "line 2"):
            dismiss(tmp_path / "bad.jsonl", ["a", "b"])
    with raises(FormatError, "nowhere"):
        dismiss(tmp_path / "nowhere" / "not.jsonl", ["a", "b"])
