"""Engines from their making to their end: images in and out, answers, refusals, crashes, their precision."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import delf_engine as de
from delf_engine.engine.directory import new_directory
from delf_engine.engine.manifest import MANIFEST
from delf_engine.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DelfEngineWarning,
    FeatureError,
    FormatError,
    ImageError,
    LockedError,
    MismatchError,
    UnknownIdError,
)
from delf_engine.extraction import precision
from delf_engine.model import load_checkpoint, save_checkpoint
from forkserver import Child
from helpers import raises, random_features, random_photo, write_tiny_model


def _create(directory: Path, model: Path, kind: str = "asmk") -> de.Engine:
    return de.Engine.create(directory, model=model, index=kind)  # type: ignore[arg-type]


def test_add_search_remove_reopen(tmp_path: Path, tiny_model: Path, photos: list[str], kind: str) -> None:
    with _create(tmp_path / "e", tiny_model, kind) as engine:
        assert len(engine) == 0
        assert len(engine.search(photos[0])) == 0
        report = engine.add(photos)
        assert report.added == photos
        hits = engine.search(photos[2], top_k=3)
        assert (hits[0].id, hits[0].rank, hits[0].verification.same) == (photos[2], 1, True)
        assert hits[0].inliers == hits[0].verification.inliers > 50
        before = hits.to_dict()
        json.dumps(before)
        engine.remove(photos[4])
        assert photos[4] not in engine
    with de.Engine.open(tmp_path / "e") as engine:
        assert engine.ids() == [p for p in photos if p != photos[4]]
        assert photos[4] not in [h.id for h in engine.search(photos[4], top_k=10)]
        assert engine.add(photos).added == [photos[4]]
        assert engine.search(photos[2], top_k=1)[0].inliers == before["hits"][0]["inliers"]
        info = engine.info()
        assert info.images == len(photos)
        assert info.index["kind"] == kind
        json.dumps(info.to_dict())
        assert str(info.images) in str(info)


def test_folders_ids_and_other_sources(tmp_path: Path, tiny_model: Path, photos: list[str]) -> None:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(photos[0], folder / "b.png")
    shutil.copy(photos[1], folder / "sub" / "a.png")
    array = random_photo(np.random.default_rng(9))
    with _create(tmp_path / "e", tiny_model) as engine:
        assert engine.add(folder).added == [str(folder / "b.png"), str(folder / "sub" / "a.png")]
        assert engine.add([array], ids=["mine"]).added == ["mine"]
        assert engine.search(array, top_k=1)[0].id == "mine"
        assert engine.search("mine", top_k=1)[0].id == "mine"
        assert engine.verify("mine", array).same
        (tmp_path / "empty").mkdir()
        with raises(ConfigError, "ids="):
            engine.add([array])
        with raises(ConfigError, "2 ids"):
            engine.add([array], ids=["a", "b"])
        with raises(ConfigError, "'a'"):
            engine.add([array, array], ids=["a", "a"])
        with raises(DataError, "empty"):
            engine.add(tmp_path / "empty")


def test_second_writer_is_refused_and_readers_are_not(tmp_path: Path, tiny_model: Path, photos: list[str]) -> None:
    with _create(tmp_path / "e", tiny_model) as engine:
        engine.add(photos[:2])
        code = """
            import sys, delf_engine as de
            with de.Engine.open(sys.argv[1], readonly=True) as e:
                print(len(e), e.search(sys.argv[2])[0].inliers > 9)
            try: de.Engine.open(sys.argv[1])
            except de.DelfEngineError as error: print(type(error).__name__)
        """
        assert Child(code, tmp_path / "e", photos[0]).communicate().split() == ["2", "True", "LockedError"]
    with de.Engine.open(tmp_path / "e", readonly=True) as engine:
        assert engine.search(photos[1], top_k=1)[0].id == photos[1]
        for change in (lambda: engine.add(photos), lambda: engine.remove(photos[0])):
            with raises(LockedError, str(tmp_path / "e")):
                change()


def test_interrupt_keeps_what_is_extracted(
    tmp_path: Path, tiny_model: Path, photos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with _create(tmp_path / "e", tiny_model) as engine, pytest.raises(KeyboardInterrupt):
        engine.add(photos, progress=stop)
    with de.Engine.open(tmp_path / "e") as engine:
        assert engine.ids() == photos[:2]
        assert engine.add(photos).added == photos[2:]


def test_rerank_a_foreign_shortlist(engine_of_photos: de.Engine, photos: list[str]) -> None:
    hits = engine_of_photos.rerank(photos[3], [photos[0], photos[3], photos[1]])
    assert (hits[0].id, len(hits)) == (photos[3], 3)
    scored = engine_of_photos.rerank(photos[3], [(photos[0], 0.9), (photos[3], 0.1)], top_n=1)
    assert [h.id for h in scored] == [photos[0], photos[3]]
    assert scored[1].verification is None
    assert [h.id for h in engine_of_photos.rerank(photos[3], photos, top_n=0)] == photos
    with pytest.warns(DelfEngineWarning, match="gone"):
        engine_of_photos.rerank(photos[3], [photos[3], "gone"])


def test_features_from_elsewhere(tmp_path: Path, tiny_model: Path, rng: np.random.Generator) -> None:
    f, other = random_features(rng, 50), random_features(rng, 5, dim=16)
    with _create(tmp_path / "e", tiny_model) as engine:
        assert engine.add_features([("a", f), ("b", de.LocalFeatures.empty((10, 10)))]).added == ["a", "b"]
        assert engine.add_features([("a", f)]).skipped == ["a"]
        assert engine.search(f)[0].id == "a"
        assert len(engine.search(de.LocalFeatures.empty((10, 10)))) == 0
        with pytest.raises(MismatchError):
            engine.add_features([("c", other)])
        with pytest.raises((MismatchError, FeatureError)):
            engine.search(other)


def test_wrong_arguments(tmp_path: Path, tiny_model: Path, engine_of_photos: de.Engine, photos: list[str]) -> None:
    features = engine_of_photos.get(photos[0])
    for option, value in (("top_k", 0), ("top_n", -1), ("box", (0, 0, 5, 5))):
        with raises(ConfigError, option):
            engine_of_photos.search(features, **{option: value})  # type: ignore[arg-type]
    with raises(UnknownIdError, "'x' and 1 more"):
        engine_of_photos.remove([photos[0], "x", "y"])
    assert photos[0] in engine_of_photos
    with raises(UnknownIdError, "x"):
        engine_of_photos.get("x")
    alone = tmp_path / "alone.safetensors"
    shutil.copy(tiny_model, alone)
    with raises(FormatError, str(tmp_path)):
        _create(tmp_path, tiny_model)  # not empty
    with raises(CheckpointError, "nothing"):
        de.Engine.create(tmp_path / "f", model="nothing")
    with raises(ConfigError, "alone"):
        de.Engine.create(tmp_path / "f", model=alone)
    with raises(MismatchError, "16-D"):
        de.Engine.create(tmp_path / "f", model=tiny_model, codebook=de.Codebook(np.eye(16)))
    assert list(tmp_path.iterdir()) == [alone]


def test_what_another_process_has_made_meanwhile_stays(tmp_path: Path) -> None:
    with raises(LockedError, "raced"), new_directory(tmp_path / "raced") as folder:
        shutil.copytree(folder, tmp_path / "raced")
        (tmp_path / "raced" / "theirs").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["raced", "theirs"]


def test_opening_what_is_no_engine(tmp_path: Path, tiny_model: Path) -> None:
    with raises(FormatError, "nothing"):
        de.Engine.open(tmp_path / "nothing")
    _create(tmp_path / "e", tiny_model).close()
    manifest = tmp_path / "e" / MANIFEST
    values = json.loads(manifest.read_text())
    for text in ("{", "[]", *({"version": 2}, {"profile": 7}, {"dim": "many"})):
        manifest.write_text(text if isinstance(text, str) else json.dumps({**values, **text}))
        with raises(FormatError, str(manifest), *([] if isinstance(text, str) else text)):
            de.Engine.open(tmp_path / "e")
    for changed, fact in (({"model_identity": "other@0"}, "tiny@"), ({"codebook": "0" * 64}, "codebook")):
        manifest.write_text(json.dumps({**values, **changed}))
        with raises(MismatchError, fact):
            de.Engine.open(tmp_path / "e")


@pytest.mark.parametrize("score", ["inliers", "weighted", "similarity"])
def test_every_way_to_rank_uses_the_profiles_rule(
    score: str, tmp_path: Path, tiny_model: Path, photos: list[str]
) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text(f'extends = "default"\n[ranking]\nscore = "{score}"\nexponent = 2.0\nblend = 0.5\n')
    query = photos[1]
    with de.Engine.create(tmp_path / "e", model=tiny_model, profile=profile) as engine:
        engine.add(photos)
        shown = engine.search(query, top_k=6)
        found = engine.search(query, top_k=6, confirm=0)
        assert {hit.id for hit in shown} == {hit.id for hit in found}
        assert sorted(hit.id for hit in found) == photos
        shortlist = [(hit.id, hit.score) for hit in sorted(found, key=lambda hit: hit.first_rank)]
        assert engine.rerank(query, shortlist, confirm=0).hits == found.hits
        assert engine.rerank(query, shortlist).hits == shown.hits
        assert engine.rerank(query, shortlist[::-1], confirm=0)[0] == replace(
            found[0], first_rank=7 - found[0].first_rank
        )
        assert shown[1].verification == engine.verify(query, shown[1].id)
        verification = engine.verify(engine.get(query), engine.get(found[1].id))
        assert found[1].verification == verification
        assert verification.exponent == 2.0
        lists = {query: shortlist}
        assert de.rerank_many(engine.store, lists, engine.store, profile=profile) == {query: list(found)}
        assert de.verify(engine.get(query), engine.get(found[1].id), profile=profile) == verification
        expected = {
            "inliers": verification.inliers + 0.5 * verification.similarity,
            "weighted": verification.inlier_similarity + 0.5 * verification.similarity,
            "similarity": verification.similarity,
        }
        assert found[1].ranking_score == found.to_dict()["hits"][1]["ranking_score"] == expected[score]
        assert [hit.ranking_score for hit in engine.search(query, top_k=6, top_n=0)] == [None] * 6
        assert "ranking" in str(found).splitlines()[1].split()
        assert "<th>ranking</th>" in found._repr_html_()


def test_results_print_well(engine_of_photos: de.Engine, photos: list[str]) -> None:
    hits = engine_of_photos.search(photos[0], top_n=0)
    text = str(hits).splitlines()
    assert photos[0] in text[0]
    assert text[1].split() == ["rank", "inliers", "place", "score", "image"]
    assert len(text) == 2 + len(hits)
    assert "<table>" in hits._repr_html_()
    assert hits[:2] == hits.hits[:2]
    assert "6 images" in repr(engine_of_photos)
    assert "nothing found" in str(engine_of_photos.search(de.LocalFeatures.empty((9, 9))))


def test_another_model_behind_the_same_name(tmp_path: Path, tiny_model: Path, photos: list[str]) -> None:
    path = write_tiny_model(tmp_path)
    with _create(tmp_path / "e", path) as engine:
        engine.add(photos[:1])
    network, info = load_checkpoint(path)
    state = {k: v.numpy() for k, v in network.state_dict().items()}
    save_checkpoint(path, {**state, "trunk.conv1.weight": state["trunk.conv1.weight"] * 1.5}, info)
    with de.Engine.open(tmp_path / "e") as engine:
        assert engine.search(photos[0], top_k=1)[0].id == photos[0]  # its stored features still serve
        with raises(MismatchError, "tiny@"):
            engine.search(random_photo(np.random.default_rng(0)))


def test_verify_takes_images_and_features(tiny_model: Path, photos: list[str]) -> None:
    same = de.verify(photos[0], photos[0], model=tiny_model)
    assert same.same
    assert same.inliers > 50
    np.testing.assert_allclose(same.transform, np.eye(3), atol=0.05)
    extractor = de.Extractor.from_pretrained(tiny_model)
    features = extractor(photos[0])
    coarse = de.verify(photos[0], photos[0], model=tiny_model, fine=False)
    assert de.verify(features, photos[0], extractor=extractor) == de.verify(features, features) == coarse
    assert de.verify(photos[0], photos[1], model=tiny_model, box_a=(10, 10, 90, 90)).inliers < same.inliers
    with raises(ImageError, "gone.jpg"):
        de.verify(photos[0], "gone.jpg", model=tiny_model)


def hardware(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(precision, "_x86_flags", lambda: frozenset(flags))


def on_disk(directory: Path) -> str:
    return str(json.loads((directory / MANIFEST).read_text())["profile"]["extraction"]["precision"])


@pytest.mark.parametrize(("flag", "kept"), [("avx2", "fp32"), ("amx_bf16", "bf16")])
def test_first_add_settles_auto(
    tmp_path: Path,
    tiny_model: Path,
    photos: list[str],
    monkeypatch: pytest.MonkeyPatch,
    flag: str,
    kept: str,
) -> None:
    """An engine settles the arithmetic of its features with the first image it extracts, and keeps to it."""
    directory = tmp_path / "e"
    hardware(monkeypatch, flag)
    with de.Engine.create(directory, model=tiny_model) as engine:
        engine.add([])
        engine.add_features([("elsewhere", random_features(np.random.default_rng(0), 30))])
        assert engine.info().precision == on_disk(directory) == "auto"
        engine.add(photos[:2])
        assert engine.info().precision == engine.extractor.precision == on_disk(directory) == kept
        assert f"precision          {kept}" in str(engine.info())
        before = engine.search(photos[1]).to_dict()
    hardware(monkeypatch, "avx512_bf16" if kept == "fp32" else "avx2")  # the directory moves to another machine
    with de.Engine.open(directory) as engine:
        if kept == "bf16":
            with pytest.warns(DelfEngineWarning, match="bfloat16"):
                assert engine.extractor.precision == kept
        assert engine.add(photos[2:3]).added == photos[2:3]
        assert engine.extractor.precision == on_disk(directory) == kept
        assert engine.search(photos[1])[0].id == photos[1]
        engine.remove(photos[2])
        if kept == "fp32":
            assert engine.search(photos[1]).to_dict() == before
