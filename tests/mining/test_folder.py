from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.demo.scenes import Collection
from delf_engine.errors import DataError, FormatError, MismatchError
from delf_engine.extraction import Extractor
from delf_engine.mining.folder import FEW_PAIRS, MiningReport, mine_folder, write_pairs
from delf_engine.mining.mine import Mined
from delf_engine.training import load_training_config
from delf_engine.training.config import GradientStage
from delf_engine.training.sources.mined import MinedPair, read_pairs
from helpers import raises, random_photo, write_image
from mining.moving import TURNED

numbers = st.floats(-1e6, 1e6)


def test_pairs_are_of_one_place_and_lie_where_they_were_rendered(
    collection: Collection, mined: MiningReport
) -> None:
    rendered = {str(photo.path): photo for photo in collection.gallery}
    found = read_pairs(mined.out)
    assert len(found) == len(mined.mined.pairs) >= 5
    for pair in found:
        a, b = rendered[os.path.normpath(pair.a)], rendered[os.path.normpath(pair.b)]
        assert a.place == b.place is not None
        assert a.homography is not None
        assert b.homography is not None
        truth = b.homography @ np.linalg.inv(a.homography)
        middle = np.median(pair.points[:, :2], axis=0)
        moved = [h @ np.r_[middle, 1] for h in (truth, pair.homography)]
        assert np.linalg.norm(moved[0][:2] / moved[0][2] - moved[1][:2] / moved[1][2]) < 12
    assert mined.mined.groups == (3, 3)
    assert {Path(name).name[:7] for name in mined.mined.alone} == {"clutter"}


def test_the_engine_that_is_kept_saves_the_extraction(
    collection: Collection, mined: MiningReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = collection.gallery[0].path.parent

    def never(*_: object, **__: object) -> None:
        raise AssertionError("extracts again")

    monkeypatch.setattr(Extractor, "extract_many", never)
    options = {"engine": folder.parent / "engine", "workers": 2}
    again = mine_folder([folder], folder.parent / "again.jsonl", **options)  # type: ignore[arg-type]
    assert again.out.read_bytes() == mined.out.read_bytes()
    elsewhere = mine_folder([folder], tmp_path / "pairs.jsonl", **options)  # type: ignore[arg-type]
    line = json.loads(elsewhere.out.read_text().splitlines()[0])
    assert line["a"] == str(collection.gallery[0].path)
    assert json.loads(mined.out.read_text().splitlines()[0])["a"] == "photos/china_1.jpg"


def test_interrupted_extraction_goes_on(
    collection: Collection, mined: MiningReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = [photo.path for photo in collection.gallery], tmp_path / "pairs.jsonl"
    extract_many, extracted = Extractor.extract_many, []

    def counted(self: Extractor, images: object, **options: object) -> object:
        for item in extract_many(self, images, **options):  # type: ignore[arg-type]
            extracted.append(item[0])
            yield item
            if len(extracted) == 5:
                raise KeyboardInterrupt

    monkeypatch.setattr(Extractor, "extract_many", counted)
    with pytest.raises(KeyboardInterrupt):
        mine_folder(photos, out, engine=tmp_path / "engine")
    assert not out.exists()
    report = mine_folder(photos, out, engine=tmp_path / "engine", workers=1)
    assert sorted(extracted) == sorted(map(str, photos))  # each once
    assert [p.homography.tolist() for p in report.mined.pairs] == [
        p.homography.tolist() for p in mined.mined.pairs
    ]


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
    for pair, read in zip(pairs, read_pairs(folder / "pairs.jsonl"), strict=True):
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
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("delf_engine.mining.folder.Engine", None)  # any use would fail otherwise
    with pytest.raises(FormatError, match=r"is a folder|cannot be written: No such file"):
        mine_folder([collection.gallery[0].path.parent], tmp_path / name)


def test_too_few_photographs(tmp_path: Path, tiny_model: Path) -> None:
    photo = write_image(tmp_path / "one" / "a.png", random_photo(np.random.default_rng(0)))
    with raises(DataError):
        mine_folder([photo], tmp_path / "pairs.jsonl", model=tiny_model)
    (tmp_path / "one" / "b.jpg").write_bytes(b"no image")
    seen: list[str] = []
    with raises(DataError):
        mine_folder(
            [tmp_path / "one"],
            tmp_path / "pairs.jsonl",
            model=tiny_model,
            on_error=lambda name, _: seen.append(name),
        )
    assert seen == [str(tmp_path / "one" / "b.jpg")]
    (tmp_path / "none").mkdir()
    with raises(DataError):
        mine_folder([tmp_path / "none"], tmp_path / "pairs.jsonl", model=tiny_model)
    assert not (tmp_path / "pairs.jsonl").exists()


def test_no_pair_says_how_near_it_was(tmp_path: Path, tiny_model: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "abc":
        write_image(tmp_path / "photos" / f"{name}.png", random_photo(rng))
    out = tmp_path / "pairs.jsonl"
    with pytest.raises(DataError, match=r"no pair among 3 photographs: of 3 pairs .* has \d+ inliers, 9999 are"):
        mine_folder([tmp_path / "photos"], out, model=tiny_model, min_inliers=9999)
    assert not out.exists()


def test_copies_alone_are_no_pairs(tmp_path: Path, tiny_model: Path) -> None:
    photo = random_photo(np.random.default_rng(0), 400, 300)
    for name in ("a.png", "b.jpg"):
        write_image(tmp_path / "photos" / name, photo)
    out = tmp_path / "pairs.jsonl"
    with raises(DataError):
        mine_folder([tmp_path / "photos"], out, model=tiny_model, min_inliers=20)
    kept = mine_folder([tmp_path / "photos"], out, model=tiny_model, min_inliers=20, keep_duplicates=True)
    np.testing.assert_allclose(kept.mined.pairs[0].homography, np.eye(3), atol=0.05 * 400)
    assert "1 pairs of at least 20 inliers" in str(kept)


def test_an_engine_of_another_model_is_refused(
    collection: Collection, mined: MiningReport, tiny_model: Path
) -> None:
    folder = collection.gallery[0].path.parent
    with pytest.raises(MismatchError, match=r"made with model delf-r18@\w+, not with .*tiny"):
        mine_folder([folder], folder.parent / "x.jsonl", engine=folder.parent / "engine", model=tiny_model)


def test_summary_says_when_pairs_are_too_few() -> None:
    pair = MinedPair("a", "b", np.eye(3), np.zeros((1, 4)))

    def report(count: int) -> MiningReport:
        return MiningReport(Path("pairs.jsonl"), Mined((pair,) * count, ("a", "b", "c"), 3, 45, 99, 1, 0, 2))

    assert "too few to train on" in str(report(FEW_PAIRS - 1))
    assert "too few" not in str(report(FEW_PAIRS))
    text = str(report(3))
    assert "left out: 1 near-duplicates, 2 more than wanted" in text
    assert "1 photographs without a partner" in text
    assert report(3).to_dict()["few"] is True


def test_few_pairs_are_fewer_than_the_recipe_draws() -> None:
    stages = [s for s in load_training_config("delf_self").stages if isinstance(s, GradientStage)]
    assert {round(stage.batch * stage.source.model_dump()["share"]) for stage in stages} == {FEW_PAIRS}
