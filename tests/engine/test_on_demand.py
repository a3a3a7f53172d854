"""Re-ranking hits of other systems without an engine: files, bytes, ids of a store, and the cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import delf_engine as de
from delf_engine.errors import ConfigError, DataError, DelfEngineWarning, ImageError, LockedError, MismatchError
from delf_engine.extraction import Extractor
from delf_engine.reranking import read_hits
from delf_engine.storage import FeatureStore
from helpers import raises, random_photo, write_image
from reranking import clients

HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "rerank_hits.md"
#: What the page supposes to be there, for each system whose client needs no server.
SYSTEMS = {
    "FAISS": lambda folder: {"index": clients.faiss_index()},
    "usearch": lambda folder: {"index": clients.usearch_index()},
    "hnswlib": lambda folder: {"index": clients.hnswlib_index()},
    "Qdrant": lambda folder: {"client": clients.qdrant()},
    "Milvus": lambda folder: {"client": clients.milvus(folder)},
    "LanceDB": lambda folder: {"table": clients.lancedb_table(folder)},
}


@pytest.fixture(scope="module")
def extractor(tiny_model: Path) -> Extractor:
    return Extractor.from_pretrained(tiny_model)


def rerank(photo: Any, hits: Any, extractor: Any, **options: Any) -> Any:
    return de.rerank(photo, hits, **{"extractor": extractor, "confirm": 0, **options})


def plain(result: Any) -> list[tuple[str, int, int | None, float | None]]:
    return [(hit.id, hit.first_rank, hit.inliers, hit.ranking_score) for hit in result.hits]


def test_the_order_is_that_of_an_engine(photos: Any, engine_of_photos: Any, tiny_model: Path) -> None:
    lists = [(photo, 1 - k / 10) for k, photo in enumerate(photos)]
    found = de.rerank(photos[2], lists, model=tiny_model)
    wanted = engine_of_photos.rerank(photos[2], lists)
    assert found.hits[0].id == photos[2]
    assert [(hit.id, hit.first_rank, hit.score) for hit in found.hits] == [
        (hit.id, hit.first_rank, hit.score) for hit in wanted.hits
    ]
    fine = found.hits[0].verification.fine
    assert fine == wanted.hits[0].verification.fine
    assert fine is not None
    assert found.query == wanted.query
    assert len(de.rerank(photos[2], lists, model=tiny_model, top_k=2, confirm=0).hits) == 2


def test_the_device_is_passed_on_by_every_call(photos: Any, extractor: Any, engine_of_photos: Any) -> None:
    store, lists = engine_of_photos.store, {photos[2]: list(photos)}
    calls: list[Callable[[str], Any]] = [
        lambda device: rerank(photos[2], photos, extractor, device=device).hits,
        lambda device: de.rerank_many(store, lists, store, device=device),
        lambda device: engine_of_photos.rerank_many(lists, device=device).rankings,
    ]
    for call in calls:
        with raises(ConfigError, "cuda:99"):
            call("cuda:99")


def test_a_faiss_answer_and_bytes(photos: Any, extractor: Any) -> None:
    distances, rows = np.array([[0.1, 0.2, 0.4, 9.0]]), np.array([[4, 1, 3, -1]])
    found = rerank(photos[3], (distances, rows), extractor, names=photos)
    assert {hit.id for hit in found.hits} == {photos[k] for k in (4, 1, 3)}
    assert (found.hits[0].id, found.hits[0].score) == (photos[3], -0.4)
    as_bytes = [{"image": Path(photos[k]).read_bytes(), "distance": d} for k, d in ((4, 0.1), (1, 0.2), (3, 0.4))]
    same = rerank(photos[3], as_bytes, extractor)
    assert [p[1:] for p in plain(same)] == [p[1:] for p in plain(found)]
    assert all(hit.id.startswith("sha256:") for hit in same.hits)
    assert rerank(photos[3], as_bytes, extractor, confirm=1).hits[0].verification.fine is not None
    assert rerank(photos[3], [], extractor).hits == ()


def test_missing_and_damaged_files_stay_behind(photos: Any, extractor: Any, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"no image")
    hits = [str(tmp_path / "gone.jpg"), photos[1], damaged, photos[0]]
    with pytest.warns(DelfEngineWarning, match=r"2 .*gone\.jpg.*damaged\.jpg") as caught:
        found = rerank(photos[0], hits, extractor, cache=tmp_path / "cache")
    assert len(caught) == 1
    assert caught[0].filename == __file__  # of the caller
    assert [hit.id for hit in found.hits] == [photos[0], photos[1], str(hits[0]), str(damaged)]
    assert [hit.inliers is None for hit in found.hits] == [False, False, True, True]


def test_a_cache_gives_the_same_bits_and_is_used(
    photos: Any, extractor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hits = [*photos, Path(photos[0]).read_bytes()]
    wanted = plain(rerank(photos[0], hits, extractor))
    first = plain(rerank(photos[0], hits, extractor, cache=tmp_path / "cache"))
    asked: list[Any] = []
    extract = extractor.extract_many

    def counted(images: Any, **options: Any) -> Any:
        asked.extend(images)
        return extract(images, **options)

    monkeypatch.setattr(extractor, "extract_many", counted)
    monkeypatch.chdir(Path(photos[0]).parent)  # one file, however its path is written
    relative = [*(os.path.relpath(photo) for photo in photos), hits[-1]]
    second = plain(rerank(photos[0], relative, extractor, cache=tmp_path / "cache"))
    assert asked == []
    assert wanted == first
    assert [p[1:] for p in first] == [p[1:] for p in second]
    assert rerank(photos[0], photos, extractor, cache=tmp_path / "cache", top_n=2).hits[2].inliers is None


def test_a_file_that_has_changed_is_extracted_again(extractor: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    one, two = (random_photo(rng, 170, 130) for _ in range(2))
    query, file = write_image(tmp_path / "query.png", one), write_image(tmp_path / "file.png", two)
    before = rerank(query, [file], extractor, cache=tmp_path / "cache").hits[0]
    write_image(file, one)
    os.utime(file, ns=(1, 1))
    after = rerank(query, [file], extractor, cache=tmp_path / "cache").hits[0]
    assert (before.inliers or 0) < (after.inliers or 0)


def test_ids_of_a_store(photos: Any, extractor: Any, engine_of_photos: Any, tmp_path: Path) -> None:
    model = extractor.info.identity
    with FeatureStore.create(tmp_path / "s", dim=40, codec="uint8", model=model) as store:
        store.put_many([(f"s3://bucket/{k}", extractor(photo)) for k, photo in enumerate(photos[:3])])
        hits = ["s3://bucket/2", "s3://bucket/0", photos[0]]
        first = plain(rerank(photos[0], hits, extractor, cache=store))
        assert {p[0] for p in first[:2]} == {hits[1], hits[2]}
        assert first[0][2] == first[1][2]  # stored or extracted now: the same bits
        assert plain(rerank(photos[0], hits, extractor, cache=store)) == first
        with raises(DataError, "hit 1", "s3://bucket/9"):
            rerank(photos[0], ["s3://bucket/9"], extractor, cache=store)
    with FeatureStore.open(tmp_path / "s", readonly=True) as store:
        assert plain(rerank(photos[0], hits, extractor, cache=store)) == first
        with raises(LockedError):
            rerank(photos[0], [photos[1]], extractor, cache=store)
    found = rerank(photos[1], [photos[0], photos[1]], extractor, cache=engine_of_photos.store)
    assert found.hits[0].id == photos[1]


def test_features_as_the_photo_and_what_does_not_fit(
    photos: Any, extractor: Any, tmp_path: Path, tiny_model: Path
) -> None:
    features = extractor(photos[2])
    assert rerank(features, photos[1:4], extractor).hits[0].id == photos[2]
    with raises(ConfigError, "box"):
        rerank(features, photos[1:4], extractor, box=(0, 0, 50, 50))
    for address in ("https://x.org/a.jpg", "data:image/png;base64,AAAA", "file:///a.jpg"):
        with raises(DataError, "hit 2", address[:20]):
            rerank(photos[0], [photos[1], address], extractor)
    with raises(ImageError, "gone.jpg"):
        rerank(tmp_path / "gone.jpg", photos, extractor)
    for store in ({"dim": 40, "model": "other@1"}, {"dim": 32, "model": extractor.info.identity}):
        FeatureStore.create(tmp_path / str(store["dim"]), **store).close()
        with raises(MismatchError, str(tmp_path / str(store["dim"]))):
            rerank(photos[0], photos, extractor, cache=tmp_path / str(store["dim"]))
    rerank(photos[0], photos[:2], extractor, cache=tmp_path / "cache")
    other = Extractor.from_pretrained(tiny_model, config=extractor.config.model_copy(update={"max_features": 50}))
    with raises(MismatchError, "cache"):  # of the same model, with other options
        rerank(photos[0], photos[:2], other, cache=tmp_path / "cache")


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_howto_works_as_printed(
    system: str, extractor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"de": de, "vector": clients.ASKED, "paths": clients.NAMES, **SYSTEMS[system](tmp_path)}
    rng = np.random.default_rng(3)
    for name in clients.NAMES:
        photo = write_image(tmp_path / name, random_photo(rng))
    shutil.copy(photo, tmp_path / "query.jpg")  # that of the third hit
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Extractor, "from_pretrained", lambda *_, **__: extractor)
    section = HOWTO.read_text("utf-8").split(f"## {system}\n")[1]
    code = section.split("```python\n")[1].split("```")[0].replace("100", "3")
    exec(code, given)
    result: Any = given["result"]
    assert result.hits[0].id == clients.BEST[2]
    assert sorted(hit.id for hit in result.hits) == sorted(clients.BEST)


def test_hits_that_name_ids_of_an_engine(photos: Any, engine_of_photos: Any) -> None:
    ids = engine_of_photos.ids()
    answer = {
        "result": {"points": [{"id": image_id, "score": 0.9 - 0.1 * i} for i, image_id in enumerate(ids[:3])]}
    }
    found = engine_of_photos.rerank(photos[2], read_hits(answer))
    assert found[0].id == ids[2]
    assert {hit.id for hit in found} == set(ids[:3])
    assert found[0].score == pytest.approx(0.7)
