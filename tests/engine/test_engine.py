from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import delf_engine as de
from delf_engine.config import RankingConfig
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
from helpers import random_features, random_photo, write_image


@pytest.fixture(params=["asmk", "kdtree"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


WEIGHTED = RankingConfig(score="weighted", exponent=2.0, blend=0.5)


def _create(directory: Path, model: Path, kind: str = "asmk") -> de.Engine:
    return de.Engine.create(directory, model=model, index=kind)  # type: ignore[arg-type]


def test_add_search_remove_reopen(tmp_path: Path, tiny_model: Path, photos: list[str], kind: str) -> None:
    with _create(tmp_path / "e", tiny_model, kind) as engine:
        assert len(engine) == 0
        assert len(engine.search(photos[0])) == 0
        report = engine.add(photos)
        assert report.added == photos
        hits = engine.search(photos[2], top_k=3)
        assert hits[0].id == photos[2]
        assert hits[0].rank == 1
        assert hits[0].inliers == hits[0].verification.inliers > 50
        assert hits[0].verification.same
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


def test_same_results_whatever_the_order_of_workers(tmp_path: Path, tiny_model: Path, photos: list[str]) -> None:
    results = []
    for workers in (1, 3):
        with _create(tmp_path / f"e{workers}", tiny_model) as engine:
            engine.add(photos, workers=workers)
            results.append((engine.search(photos[1]).to_dict(), [engine.get(p) for p in photos]))
    assert results[0] == results[1]


def test_bad_images_are_reported_and_the_rest_goes_on(tmp_path: Path, tiny_model: Path, photos: list[str]) -> None:
    (tmp_path / "zero.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    whole = write_image(tmp_path / "whole.jpg", random_photo(np.random.default_rng(0)))
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    dot = write_image(tmp_path / "dot.png", np.zeros((1, 1, 3), np.uint8))
    bad = [str(tmp_path / n) for n in ("zero.jpg", "text.jpg", "cut.jpg", "dot.png", "gone.jpg")]
    ticks: list[tuple[int, int]] = []
    with _create(tmp_path / "e", tiny_model) as engine:
        mixed = [bad[0], photos[0], bad[1], bad[2], photos[1], str(dot), bad[4], photos[0]]
        report = engine.add(mixed, progress=lambda done, total: ticks.append((done, total)))
        assert report.added == photos[:2]
        assert report.skipped == [photos[0]]
        assert [name for name, _ in report.failed] == [bad[0], bad[1], bad[2], bad[3], bad[4]]
        reasons = dict(report.failed)
        assert "zero bytes" in reasons[bad[0]]
        assert "not an image" in reasons[bad[1]]
        assert "truncated" in reasons[bad[2]]
        assert "1 x 1 pixels are too few" in reasons[bad[3]]
        assert "no such file" in reasons[bad[4]]
        assert ticks[-1] == (8, 8)
        assert len(engine) == 2
        assert "5 failed" in str(report)
        with pytest.raises(ImageError, match=r"zero\.jpg"):
            engine.search(bad[0])


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
        with pytest.raises(ConfigError, match="ids="):
            engine.add([array])
        with pytest.raises(ConfigError, match="2 ids"):
            engine.add([array], ids=["a", "b"])
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="empty"):
            engine.add(tmp_path / "empty")


def test_rerank_a_foreign_shortlist(tmp_path: Path, tiny_model: Path, photos: list[str]) -> None:
    with _create(tmp_path / "e", tiny_model) as engine:
        engine.add(photos)
        hits = engine.rerank(photos[3], [photos[0], photos[3], photos[1]])
        assert hits[0].id == photos[3]
        assert len(hits) == 3
        scored = engine.rerank(photos[3], [(photos[0], 0.9), (photos[3], 0.1)], top_n=1)
        assert [h.id for h in scored] == [photos[0], photos[3]]
        assert scored[1].verification is None
        assert [h.id for h in engine.rerank(photos[3], photos, top_n=0)] == photos
        with pytest.warns(DelfEngineWarning, match="gone"):
            engine.rerank(photos[3], [photos[3], "gone"])
        everywhere = de.rerank({"q": engine.get(photos[3])}, {"q": photos[:4]}, engine.store)
        assert everywhere["q"][0].id == photos[3]


def test_features_from_elsewhere(tmp_path: Path, tiny_model: Path, rng: np.random.Generator) -> None:
    with _create(tmp_path / "e", tiny_model) as engine:
        f = random_features(rng, 50)
        assert engine.add_features([("a", f), ("b", de.LocalFeatures.empty((10, 10)))]).added == ["a", "b"]
        assert engine.add_features([("a", f)]).skipped == ["a"]
        assert engine.search(f)[0].id == "a"
        assert len(engine.search(de.LocalFeatures.empty((10, 10)))) == 0
        with pytest.raises(MismatchError):
            engine.add_features([("c", random_features(rng, 5, dim=16))])
        with pytest.raises((MismatchError, FeatureError)):
            engine.search(random_features(rng, 5, dim=16))
        with pytest.raises(ConfigError, match="box"):
            engine.search(f, box=(0, 0, 5, 5))


def test_wrong_arguments(tmp_path: Path, tiny_model: Path, photos: list[str]) -> None:
    with _create(tmp_path / "e", tiny_model) as engine:
        engine.add(photos[:1])
        for bad in ({"top_k": 0}, {"top_n": -1}):
            with pytest.raises(ConfigError, match="top_k"):
                engine.search(photos[0], **bad)  # type: ignore[arg-type]
        with pytest.raises(UnknownIdError, match="'x' and 1 more"):
            engine.remove([photos[0], "x", "y"])
        assert photos[0] in engine
        with pytest.raises(UnknownIdError):
            engine.get("x")
    with pytest.raises(FormatError, match="e: "):
        _create(tmp_path / "e", tiny_model)
    with pytest.raises(CheckpointError):
        de.Engine.create(tmp_path / "f", model="nothing")
    alone = tmp_path / "alone.safetensors"
    shutil.copy(tiny_model, alone)
    with pytest.raises(ConfigError, match="alone"):
        de.Engine.create(tmp_path / "f", model=alone)
    with pytest.raises(MismatchError, match="16-D"):
        de.Engine.create(tmp_path / "f", model=tiny_model, codebook=de.Codebook(np.eye(16)))
    assert not (tmp_path / "f").exists()
    assert not list(tmp_path.glob(".f*"))


def test_opening_what_is_no_engine(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(FormatError, match="nothing"):
        de.Engine.open(tmp_path / "nothing")
    _create(tmp_path / "e", tiny_model).close()
    manifest = tmp_path / "e" / "engine.json"
    values = json.loads(manifest.read_text())
    for text, message in (
        ("{", "damaged"),
        ("[]", "not the manifest"),
        (json.dumps({**values, "version": 2}), "version 2"),
        (json.dumps({**values, "profile": 7}), "profile"),
        (json.dumps({**values, "dim": "many"}), "dim"),
    ):
        manifest.write_text(text)
        with pytest.raises(FormatError, match=message):
            de.Engine.open(tmp_path / "e")
    manifest.write_text(json.dumps({**values, "model_identity": "other@0"}))
    with pytest.raises(MismatchError, match="tiny@"):
        de.Engine.open(tmp_path / "e")
    manifest.write_text(json.dumps({**values, "codebook": "0" * 64}))
    with pytest.raises(MismatchError, match="codebook"):
        de.Engine.open(tmp_path / "e")


@pytest.mark.parametrize("score", ["inliers", "weighted", "similarity"])
def test_every_way_to_rank_uses_the_profiles_rule(
    score: str, tmp_path: Path, tiny_model: Path, photos: list[str]
) -> None:
    ranking = WEIGHTED.model_copy(update={"score": score})
    profile = de.load_profile().model_copy(update={"ranking": ranking})
    with de.Engine.create(tmp_path / "e", model=tiny_model, profile=profile) as engine:
        engine.add(photos)
        found = engine.search(photos[1], top_k=6)
        assert sorted(hit.id for hit in found) == photos
        shortlist = [(hit.id, hit.score) for hit in sorted(found, key=lambda hit: hit.first_rank)]
        assert engine.rerank(photos[1], shortlist).hits == found.hits
        assert engine.rerank(photos[1], shortlist[::-1])[0] == replace(
            found[0], first_rank=7 - found[0].first_rank
        )
        verification = engine.verify(photos[1], found[1].id)
        assert found[1].verification == verification
        assert verification.exponent == ranking.exponent
        (tmp_path / "mine.toml").write_text(
            f'extends = "default"\n[ranking]\nscore = "{score}"\nexponent = 2.0\nblend = 0.5\n'
        )
        lists = {photos[1]: shortlist}
        assert de.rerank(engine.store, lists, engine.store, profile=tmp_path / "mine.toml") == {
            photos[1]: list(found)
        }
        first, second = (engine.get(photos[1]), engine.get(found[1].id))
        assert de.verify(first, second, profile=tmp_path / "mine.toml") == verification
        expected = {
            "inliers": verification.inliers + 0.5 * verification.similarity,
            "weighted": verification.inlier_similarity + 0.5 * verification.similarity,
            "similarity": verification.similarity,
        }
        assert found[1].ranking_score == expected[score]
        assert [hit.ranking_score for hit in engine.search(photos[1], top_k=6, top_n=0)] == [None] * 6
        assert "ranking" in str(found).splitlines()[1].split()
        assert "<th>ranking</th>" in found._repr_html_()
        assert len(str(found).splitlines()) == 2 + len(found)
        assert found.to_dict()["hits"][1]["ranking_score"] == expected[score]


def test_another_model_behind_the_same_name(tmp_path: Path, tiny_model: Path, photos: list[str]) -> None:
    from delf_engine.model import load_checkpoint, save_checkpoint

    path = tmp_path / "tiny.safetensors"
    for name in ("tiny.safetensors", "tiny.codebook.safetensors"):
        shutil.copy(tiny_model.parent / name, tmp_path / name)
    with _create(tmp_path / "e", path) as engine:
        engine.add(photos[:1])
    network, info = load_checkpoint(path)
    state = {k: v.numpy() for k, v in network.state_dict().items()}
    state["trunk.conv1.weight"] = state["trunk.conv1.weight"] * 1.5
    save_checkpoint(path, state, info)
    with de.Engine.open(tmp_path / "e") as engine:
        assert engine.search(photos[0], top_k=1)[0].id == photos[0]  # its stored features still serve
        with pytest.raises(MismatchError, match="tiny@"):
            engine.search(random_photo(np.random.default_rng(0)))


def test_second_writer_is_refused_and_readers_are_not(tmp_path: Path, tiny_model: Path, photos: list[str]) -> None:
    with _create(tmp_path / "e", tiny_model) as engine:
        engine.add(photos[:2])
        code = (
            "import sys, delf_engine as de\n"
            "with de.Engine.open(sys.argv[1], readonly=True) as e:\n"
            "    print(len(e), e.search(sys.argv[2])[0].inliers > 9)\n"
            "try: de.Engine.open(sys.argv[1])\n"
            "except de.DelfEngineError as error: print(type(error).__name__)\n"
        )
        out = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "e"), photos[0]],
            capture_output=True,
            text=True,
            check=True,
        )
        assert out.stdout.split() == ["2", "True", "LockedError"]
    with de.Engine.open(tmp_path / "e", readonly=True) as engine:
        assert engine.search(photos[1], top_k=1)[0].id == photos[1]
        for change in (lambda: engine.add(photos), lambda: engine.remove(photos[0])):
            with pytest.raises(LockedError, match="read-only"):
                change()


def test_index_is_brought_up_to_the_store(tmp_path: Path, tiny_model: Path, photos: list[str], kind: str) -> None:
    """The states that a crash can leave: features committed and not indexed; unindexed and not removed."""
    with _create(tmp_path / "e", tiny_model, kind) as engine:
        engine.add(photos)
        expected = engine.search(photos[5]).to_dict()
    with _create(tmp_path / "half", tiny_model, kind) as engine:
        engine.add(photos[:2])
    shutil.rmtree(tmp_path / "e" / "index")
    shutil.copytree(tmp_path / "half" / "index", tmp_path / "e" / "index")
    with de.Engine.open(tmp_path / "e") as engine:
        assert engine.search(photos[5]).to_dict() == expected
        assert engine.index.ids() == photos
        engine.index.remove([photos[0]])
        engine.state.save()
    with de.Engine.open(tmp_path / "e", readonly=True) as engine:
        assert sorted(engine.index.ids()) == sorted(photos)


def test_kill_during_add_loses_nothing_and_doubles_nothing(tmp_path: Path, tiny_model: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for i in range(96):
        write_image(folder / f"{i:03}.png", random_photo(rng, 64, 48))
    _create(tmp_path / "e", tiny_model).close()
    code = "import sys, delf_engine as de\nde.Engine.open(sys.argv[1]).add(sys.argv[2])\n"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "e"), str(folder)])
    deadline = time.monotonic() + 120
    found = 0
    while found == 0 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
        with de.Engine.open(tmp_path / "e", readonly=True) as engine:
            found = len(engine)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert found > 0
    with de.Engine.open(tmp_path / "e") as engine:
        committed = engine.ids()
        assert len(committed) >= found
        assert sorted(engine.index.ids()) == committed
        report = engine.add(folder)
        assert report.skipped == committed
        assert len(report.added) == 96 - len(committed)
        assert len(engine) == len(set(engine.ids())) == len(engine.index.ids()) == 96
        assert all(len(engine.get(image_id)) for image_id in committed)


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


def test_results_print_well(tmp_path: Path, tiny_model: Path, photos: list[str]) -> None:
    with _create(tmp_path / "e", tiny_model) as engine:
        engine.add(photos)
        hits = engine.search(photos[0], top_n=0)
        text = str(hits).splitlines()
        assert photos[0] in text[0]
        assert text[1].split() == ["rank", "inliers", "place", "score", "image"]
        assert len(text) == 2 + len(hits)
        assert "<table>" in hits._repr_html_()
        assert hits[:2] == hits.hits[:2]
        assert "6 images" in repr(engine)
        assert "nothing found" in str(engine.search(de.LocalFeatures.empty((9, 9))))


def test_verify_takes_images_and_features(tiny_model: Path, photos: list[str]) -> None:
    same = de.verify(photos[0], photos[0], model=tiny_model)
    assert same.same
    assert same.inliers > 50
    np.testing.assert_allclose(same.transform, np.eye(3), atol=0.05)
    extractor = de.Extractor.from_pretrained(tiny_model)
    features = extractor(photos[0])
    assert de.verify(features, photos[0], extractor=extractor) == same
    assert de.verify(features, features) == same
    other = de.verify(photos[0], photos[1], model=tiny_model, box_a=(10, 10, 90, 90))
    assert other.inliers < same.inliers
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        de.verify(photos[0], "gone.jpg", model=tiny_model)
