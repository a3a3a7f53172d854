from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.demo.scenes import Collection
from delf_engine.errors import DataError, FormatError, MismatchError
from delf_engine.extraction import Extractor
from delf_engine.mining.folder import mine_folder, write_pairs
from delf_engine.mining.mine import FEW_PAIRS, Mined
from delf_engine.training import load_training_config
from delf_engine.training.config import GradientStage
from delf_engine.training.sources.mined import MinedPair, read_pairs
from helpers import raises, random_photo, write_image
from mining.moving import TURNED

numbers = st.floats(-1e6, 1e6)


def test_pairs_are_of_one_place_and_lie_where_they_were_rendered(
    collection: Collection, photos: Path, mined: Mined
) -> None:
    rendered = {str(photo.path): photo for photo in collection.gallery}
    found, _ = read_pairs(photos.parent / "pairs.jsonl")
    assert len(found) == len(mined.pairs) >= 5
    for pair in found:
        a, b = rendered[os.path.normpath(pair.a)], rendered[os.path.normpath(pair.b)]
        assert a.place == b.place is not None
        assert a.homography is not None
        assert b.homography is not None
        truth = b.homography @ np.linalg.inv(a.homography)
        middle = np.median(pair.points[:, :2], axis=0)
        moved = [h @ np.r_[middle, 1] for h in (truth, pair.homography)]
        assert np.linalg.norm(moved[0][:2] / moved[0][2] - moved[1][:2] / moved[1][2]) < 12
    assert mined.groups == (3, 3)
    assert {Path(name).name[:7] for name in mined.alone} == {"clutter"}


def test_the_engine_that_is_kept_saves_the_extraction(
    photos: Path, mined: Mined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Extractor, "extract_many", None)  # any use would fail
    again, elsewhere = photos.parent / "again.jsonl", tmp_path / "pairs.jsonl"
    for out in (again, elsewhere):
        mine_folder([photos], out, engine=photos.parent / "engine", workers=2)
    assert again.read_bytes() == (photos.parent / "pairs.jsonl").read_bytes()
    first = [json.loads(out.read_text().splitlines()[0])["a"] for out in (again, elsewhere)]
    assert first == ["photos/china_1.jpg", str(photos / "china_1.jpg")]


def test_interrupted_extraction_goes_on(
    photos: Path, mined: Mined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, extract_many, extracted = tmp_path / "pairs.jsonl", Extractor.extract_many, []

    def counted(self: Extractor, images: object, **options: object) -> object:
        for item in extract_many(self, images, **options):  # type: ignore[arg-type]
            extracted.append(item[0])
            yield item
            if len(extracted) == 5:
                raise KeyboardInterrupt

    monkeypatch.setattr(Extractor, "extract_many", counted)
    with pytest.raises(KeyboardInterrupt):
        mine_folder([photos], out, engine=tmp_path / "engine")
    assert not out.exists()
    found = mine_folder([photos], out, engine=tmp_path / "engine", workers=1)
    assert sorted(extracted) == sorted(map(str, photos.iterdir()))  # each once
    assert [p.homography.tolist() for p in found.pairs] == [p.homography.tolist() for p in mined.pairs]


@given(
    st.lists(st.tuples(st.text("aß\n\"' \udce9/", min_size=1), st.lists(st.tuples(*[numbers] * 4), min_size=1)))
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[str, list[tuple[float, ...]]]]
) -> None:
    folder = tmp_path_factory.mktemp("pairs")
    pairs = [
        MinedPair(str(folder / "sub" / f"a{name}.jpg"), f"/elsewhere/{name}", TURNED / 3, np.array(points))
        for name, points in values
    ]
    write_pairs(folder / "pairs.jsonl", pairs)
    assert [path.name for path in folder.iterdir()] == ["pairs.jsonl"]
    if not pairs:
        assert (folder / "pairs.jsonl").read_bytes() == b""
        return
    for pair, read in zip(pairs, read_pairs(folder / "pairs.jsonl")[0], strict=True):
        assert os.path.abspath(read.a) == os.path.abspath(pair.a)
        assert os.path.abspath(read.b) == os.path.abspath(pair.b)
        assert np.array_equal(read.homography, pair.homography)
        assert np.array_equal(read.points, pair.points)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "pairs.jsonl"
    good = MinedPair("a.jpg", "b.jpg", np.eye(3), np.ones((1, 4)))
    write_pairs(out, [good])
    before = out.read_bytes()
    with pytest.raises(AttributeError):
        write_pairs(out, [good, None])  # type: ignore[list-item]
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("name", ["", "missing/pairs.jsonl"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("delf_engine.mining.folder.working_engine", None)  # any use would fail otherwise
    with raises(FormatError, str(tmp_path / name)):
        mine_folder([photos], tmp_path / name)


def test_too_few_photographs(tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "pairs.jsonl"
    photo = write_image(tmp_path / "one" / "a.png", random_photo(np.random.default_rng(0)))
    with raises(DataError, "1 of 1"):
        mine_folder([photo], out, model=tiny_model)
    (tmp_path / "one" / "b.jpg").write_bytes(b"no image")
    seen: list[str] = []
    with raises(DataError, "1 of 2"):
        mine_folder([tmp_path / "one"], out, model=tiny_model, on_error=lambda name, _: seen.append(name))
    assert seen == [str(tmp_path / "one" / "b.jpg")]
    (tmp_path / "none").mkdir()
    with raises(DataError, "none"):
        mine_folder([tmp_path / "none"], out, model=tiny_model)
    assert not out.exists()


def test_no_pair_says_how_near_it_was_and_copies_alone_are_none(tmp_path: Path) -> None:
    rng, out = np.random.default_rng(0), tmp_path / "pairs.jsonl"
    photo = random_photo(rng, 400, 300)
    for name in ("a.png", "b.jpg"):
        write_image(tmp_path / "copies" / name, photo)
    with raises(DataError, "2 photographs", "1 near-duplicates"):
        mine_folder([tmp_path / "copies"], out)
    assert not out.exists()
    kept = mine_folder([tmp_path / "copies"], out, keep_duplicates=True)
    np.testing.assert_allclose(kept.pairs[0].homography, np.eye(3), atol=0.05 * 400)
    assert (kept.compared, kept.proposed, kept.same, len(kept.pairs)) == (1, 1, 1, 1)


def test_unrelated_stills_of_one_format_are_no_pairs(tmp_path: Path) -> None:
    """Bars with the clock of a player, which look more alike than what they frame."""
    rng = np.random.default_rng(1)
    for number in range(6):
        still = np.zeros((360, 480, 3), np.uint8)
        still[60:300] = random_photo(rng, 480, 240)
        cv2.putText(still, "12:48  LIVE  REC  NEWS 24", (20, 340), cv2.FONT_HERSHEY_SIMPLEX, 1, (255, 255, 255), 2)
        cv2.putText(still, "Channel 5  HD  Episode 3", (20, 42), cv2.FONT_HERSHEY_SIMPLEX, 1, (255, 220, 90), 2)
        write_image(tmp_path / "stills" / f"{number}.png", still)
    with raises(DataError, "15 pairs", "0 show the same place"):
        mine_folder([tmp_path / "stills"], tmp_path / "pairs.jsonl")


def test_an_engine_of_another_model_is_refused(photos: Path, mined: Mined, tiny_model: Path) -> None:
    with raises(MismatchError, "delf-r18@", "tiny"):
        mine_folder([photos], photos.parent / "x.jsonl", engine=photos.parent / "engine", model=tiny_model)


def test_summary_says_when_pairs_are_too_few() -> None:
    pair = MinedPair("a", "b", np.eye(3), np.zeros((1, 4)))

    def mined(count: int) -> Mined:
        return Mined((pair,) * count, (), ("a", "b", "c"), 0, 99, 50, 45, 1, 0, 2)

    assert "too few to train on" in str(mined(FEW_PAIRS - 1))
    assert "too few" not in str(mined(FEW_PAIRS))
    assert "left out: 1 near-duplicates, 2 more than wanted" in str(mined(3))
    stages = [s for s in load_training_config("delf_self").stages if isinstance(s, GradientStage)]
    assert {round(stage.batch * stage.source.model_dump()["share"]) for stage in stages} == {FEW_PAIRS}
