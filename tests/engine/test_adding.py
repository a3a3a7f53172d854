"""Adding and replacing: broken files, strange names, files that vanish, full disks, Ctrl-C, workers that die."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import deadly
import delf_engine as de
from delf_engine.engine.manifest import MANIFEST
from delf_engine.errors import (
    ConfigError,
    DelfEngineWarning,
    FormatError,
    ImageError,
    LockedError,
    UnknownIdError,
)
from delf_engine.index import AsmkIndex
from forkserver import Child
from helpers import raises, random_features, random_photo, write_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 small photographs in nested folders with names of several alphabets; read-only for the tests."""
    root = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    for i in range(120):
        name = ("église", "Κόκκινο", "城", "фото", "plain name")[i % 5]
        write_image(root / name / f"{i:03} {name}.png", random_photo(rng, 64, 48))
    return root


@pytest.fixture(scope="module")
def one_scale(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A profile of one scale: where only the number of photographs counts, a sixth of the network's work does."""
    path = tmp_path_factory.mktemp("profile") / "one_scale.toml"
    path.write_text('extends = "default"\n[extraction]\nscales = [1.0]\nfill_scales = []\n')
    return str(path)


def _create(directory: Path, model: Path, profile: str | None = None) -> de.Engine:
    return de.Engine.create(directory, model=model, index="asmk", profile=profile)


def test_a_limit_of_pixels_is_that_of_the_call_or_of_the_profile(tmp_path: Path, tiny_model: Path) -> None:
    profile = tmp_path / "small.toml"
    profile.write_text('extends = "default"\n[extraction]\nmax_pixels = 100\n')
    path = str(write_image(tmp_path / "a.png", random_photo(np.random.default_rng(0), 64, 48)))
    with _create(tmp_path / "e", tiny_model, str(profile)) as engine:
        ((_, reason),) = engine.add(path).failed
        assert "64 x 48" in reason
        assert engine.add(path, max_pixels=64 * 48).added == [path]
        assert engine.replace(path, max_pixels=10).failed
        query = write_image(tmp_path / "b.png", random_photo(np.random.default_rng(0), 64, 48))
        with raises(ImageError, "b.png"):
            engine.search(query)
        engine.extractor.max_pixels = 64 * 48
        assert engine.search(query)[0].id == path


@pytest.mark.parametrize("workers", [0, 2])
def test_a_few_are_broken(tmp_path: Path, tiny_model: Path, folder: Path, one_scale: str, workers: int) -> None:
    photos = [str(p) for p in sorted(folder.rglob("*.png"))]
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "zero.jpg").touch()
    (broken / "cut.png").write_bytes(Path(photos[0]).read_bytes()[:200])
    (broken / "text.jpg").write_text("Not Found")
    write_image(broken / "dot.png", np.zeros((1, 1, 3), np.uint8))
    (broken / "loop.jpg").symlink_to(broken / "loop.jpg")
    (broken / "inside").symlink_to(broken)
    with _create(tmp_path / "e", tiny_model, one_scale) as engine:
        with pytest.warns(DelfEngineWarning, match="inside"):  # which would lead round in a circle
            report = engine.add([str(folder), str(broken)], workers=workers)
        assert report.added == photos
        reasons = {Path(name).name: reason for name, reason in report.failed}
        assert set(reasons) == {"cut.png", "dot.png", "loop.jpg", "text.jpg", "zero.jpg"}
        for name, said in (("zero.jpg", "zero bytes"), ("text.jpg", "not an image"), ("dot.png", "1 x 1 pixels")):
            assert said in reasons[name]
        assert "5 failed" in str(report)
        assert engine.ids() == photos
        with pytest.warns(DelfEngineWarning, match="inside"):
            again = engine.add([str(folder), str(broken)], workers=workers)
        assert (again.added, again.skipped, len(again.failed)) == ([], photos, 5)
        found = [engine.get(name) for name in photos[:50]]
    with _create(tmp_path / "alone", tiny_model, one_scale) as engine:  # the same bits with any workers
        engine.add(photos[:50], workers=1)
        assert [engine.get(name) for name in photos[:50]] == found


def test_a_file_that_vanishes_between_listing_and_reading(
    tmp_path: Path, tiny_model: Path, one_scale: str
) -> None:
    rng = np.random.default_rng(1)
    photos = [str(write_image(tmp_path / f"{i:02}.png", random_photo(rng, 64, 48))) for i in range(40)]

    def vanish(done: int, total: int) -> None:
        if done == 1:
            os.unlink(photos[-1])

    with _create(tmp_path / "e", tiny_model, one_scale) as engine:
        report = engine.add(photos, workers=2, progress=vanish)
    assert report.added == photos[:-1]
    assert report.failed == [(photos[-1], "no such file")]


def test_a_worker_that_dies(
    tmp_path: Path, tiny_model: Path, folder: Path, one_scale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly.install(monkeypatch)
    photos = [str(p) for p in sorted(folder.rglob("*.png"))][:20]
    photos[7] = str(tmp_path / "deadly.png")
    Path(photos[7]).touch()
    with _create(tmp_path / "e", tiny_model, one_scale) as engine:
        report = engine.add(photos, workers=2)
    assert report.added == photos[:7] + photos[8:]
    assert [name for name, _ in report.failed] == [photos[7]]
    assert "died 2 times" in report.failed[0][1]


def test_a_full_disk_leaves_the_engine_intact(
    tmp_path: Path, tiny_model: Path, folder: Path, one_scale: str
) -> None:
    with _create(tmp_path / "e", tiny_model, one_scale) as engine:
        photos = [str(p) for p in sorted(folder.rglob("*.png"))]
        engine.add(photos[:10])
        kept = {image_id: engine.get(image_id) for image_id in engine.ids()}
    # No file may grow beyond what the store has now and a little: the writes after that fail as on a full disk.
    limit = (tmp_path / "e" / "features" / "data.mdb").stat().st_size + 30_000
    code = f"""
        import resource, sys
        from delf_engine.cli import main
        sys.stderr = sys.stdout
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        main()
    """
    run = Child(code, "add", tmp_path / "e", folder)
    said = run.communicate()
    assert run.poll() == 1, said
    assert "cannot be written" in said
    assert "Traceback" not in said
    with de.Engine.open(tmp_path / "e") as engine:
        assert len(engine) < len(photos)
        assert all(engine.get(image_id) == features for image_id, features in kept.items())
        assert sorted(engine.index.ids()) == sorted(engine.ids())
        report = engine.add(folder)
        assert not report.failed
        assert sorted(engine.ids()) == photos


def _first_commit(directory: Path, process: Child) -> int:
    """Wait until images are committed; return how many are."""
    deadline, found = time.monotonic() + 120, 0
    while not found and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
        if (directory / MANIFEST).exists():
            with de.Engine.open(directory, readonly=True) as engine:
                found = len(engine)
    return found


def test_kill_during_add_loses_nothing_and_doubles_nothing(
    tmp_path: Path, tiny_model: Path, folder: Path, one_scale: str
) -> None:
    _create(tmp_path / "e", tiny_model, one_scale).close()
    code = "import sys, delf_engine as de\nde.Engine.open(sys.argv[1]).add(sys.argv[2])\n"
    process = Child(code, tmp_path / "e", folder)
    found = _first_commit(tmp_path / "e", process)
    process.kill()
    process.wait()
    assert found > 0
    with de.Engine.open(tmp_path / "e") as engine:
        committed = engine.ids()
        assert len(committed) >= found
        assert sorted(engine.index.ids()) == committed
        report = engine.add(folder)
        assert report.skipped == committed
        assert len(report.added) == 120 - len(committed)
        assert len(engine) == len(set(engine.ids())) == len(engine.index.ids()) == 120
        assert all(len(engine.get(image_id)) for image_id in committed)


def test_ctrl_c_stops_cleanly_and_goes_on(tmp_path: Path, tiny_model: Path, folder: Path, one_scale: str) -> None:
    code = """
        import os, signal, sys, time
        from delf_engine.cli import main
        from delf_engine.engine.state import EngineState
        sys.stderr = sys.stdout
        commit, sent = EngineState.commit, sys.argv.pop()
        def slow(self, items, **options):
            found = commit(self, items, **options)
            while not os.path.exists(sent):  # so that there is something left to interrupt
                time.sleep(0.01)
            return found
        EngineState.commit = slow
        signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have it ignored in the background
        main()
    """
    options = ["--model", tiny_model, "--profile", one_scale, "--workers", "2", tmp_path / "sent"]
    process = Child(code, "add", tmp_path / "e", folder, *options)
    found = _first_commit(tmp_path / "e", process)
    os.kill(process.pid, signal.SIGINT)
    (tmp_path / "sent").touch()
    said = process.communicate()
    assert process.poll() == 130, said
    assert "interrupted; what was committed stays" in said
    assert "Traceback" not in said
    with de.Engine.open(tmp_path / "e") as engine:
        before = engine.ids()
        assert 120 > len(before) >= found > 0
        report = engine.add(folder)
        assert report.skipped == before
        assert len(engine) == 120


def test_commits_behind_the_back_of_a_gpu(
    tmp_path: Path, tiny_model: Path, folder: Path, one_scale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [str(p) for p in sorted(folder.rglob("*.png"))][:40]
    with _create(tmp_path / "plain", tiny_model, one_scale) as engine:
        engine.add(photos)
        wanted = [engine.get(name) for name in photos]
    monkeypatch.setattr(de.Extractor, "on_gpu", True)
    with _create(tmp_path / "e", tiny_model, one_scale) as engine:
        assert engine.add(photos, workers=0, batch=1).added == photos
        assert [engine.get(name) for name in photos] == wanted
        assert sorted(engine.index.ids()) == sorted(photos)

        def full(*_: object, **__: object) -> list[str]:
            assert isinstance(engine.index, AsmkIndex)
            assert engine.index.codebook._searcher.device == ("cpu", os.getpid())
            raise OSError("no space left on device")

        monkeypatch.setattr(engine.state, "commit", full)
        more = [str(p) for p in sorted(folder.rglob("*.png"))][40:80]
        with pytest.raises(OSError, match="no space left"):
            engine.add(more, workers=0, batch=1)
    with de.Engine.open(tmp_path / "e", readonly=True) as engine:
        assert engine.ids() == photos


@pytest.fixture
def edited(tmp_path: Path, photos: list[str]) -> list[str]:
    """Photographs of this test's own, which may be edited."""
    (tmp_path / "photos").mkdir()
    return [shutil.copy(photo, tmp_path / "photos") for photo in photos[:4]]


def test_photographs_that_were_edited(tmp_path: Path, tiny_model: Path, edited: list[str], kind: str) -> None:
    def create(name: str) -> de.Engine:
        return de.Engine.create(tmp_path / name, model=tiny_model, index=kind)  # type: ignore[arg-type]

    with create("e") as engine:
        engine.add(edited)
        old = engine.get(edited[2])
        for i in (1, 2):
            write_image(Path(edited[i]), random_photo(np.random.default_rng(50 + i), 140, 110))
        assert engine.add(edited).skipped == edited
        assert engine.get(edited[2]) == old
        ticks: list[tuple[int, int]] = []
        report = engine.replace([edited[2], edited[1]], progress=lambda *tick: ticks.append(tick))
        assert (report.replaced, report.added, report.skipped) == ([edited[2], edited[1]], [], [])
        assert str(report) == "0 added, 2 replaced, 0 already there, 0 failed"
        assert report.to_dict()["replaced"] == report.replaced
        assert ticks[-1] == (2, 2)
        assert engine.get(edited[2]) != old
        order = [edited[0], edited[3], edited[2], edited[1]]
        with create("anew") as anew:
            anew.add(order)
            assert engine.ids() == engine.index.ids() == anew.ids() == anew.index.ids()
            for query in edited:
                assert engine.search(query).hits == anew.search(query).hits


def test_what_is_not_there_is_not_replaced(tmp_path: Path, tiny_model: Path, edited: list[str]) -> None:
    with de.Engine.create(tmp_path / "e", model=tiny_model) as engine:
        engine.add(edited[:2])
        with raises(UnknownIdError, "and 1 more"):
            engine.replace(edited)
        with raises(ConfigError, "2 ids"):
            engine.replace([edited[0]], ids=["a", "b"])
        assert engine.ids() == edited[:2]
        assert engine.replace([edited[1]], ids=[edited[0]]).replaced == edited[:1]
        assert engine.get(edited[0]).descriptors.tobytes() == engine.get(edited[1]).descriptors.tobytes()
        report = engine.add([edited[3], edited[0], edited[3]], replace=True)
        assert (report.added, report.replaced, report.skipped) == ([edited[3]], [edited[0]], [edited[3]])
        assert engine.ids() == engine.index.ids() == [edited[1], edited[3], edited[0]]
        kept = engine.get(edited[0])
        Path(edited[0]).write_text("no image")
        report = engine.replace(edited[:2])
        assert (report.replaced, [name for name, _ in report.failed]) == (edited[1:2], edited[:1])
        assert engine.get(edited[0]) == kept
        assert engine.ids() == engine.index.ids() == [edited[3], edited[0], edited[1]]
    with de.Engine.open(tmp_path / "e", readonly=True) as engine:
        for change in (lambda: engine.replace(edited[0]), engine.compact):
            with raises(LockedError, str(tmp_path / "e")):
                change()


def test_compact(tmp_path: Path, tiny_model: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    query = random_features(rng, 20)
    with de.Engine.create(tmp_path / "e", model=tiny_model, index=kind) as engine:  # type: ignore[arg-type]
        for start in range(0, 12, 4):
            engine.add_features([(str(i), random_features(rng, 9)) for i in range(start, start + 4)])
        engine.remove(["1", "6"])
        before = engine.search(query).hits
        assert (engine.info().index["segments"], engine.info().index["removed"]) == (3, 2)
        monkeypatch.setattr("delf_engine.index.contract._REMOVED_IMAGES", 1)
        monkeypatch.setattr("delf_engine.index.contract._REMOVED_SHARE", 0.1)
        assert "compact the index" in str(engine.info())

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.posix_fallocate", full)
            with raises(FormatError, "index"):
                engine.compact()
        engine.add_features([("12", random_features(rng, 9))])
        engine.remove("12")
        assert engine.search(query).hits == before
        engine.compact()
        assert (engine.info().index["segments"], engine.info().index["removed"]) == (1, 0)
        assert engine.info().index["advice"] is None
        assert engine.search(query).hits == before
    with de.Engine.open(tmp_path / "e", readonly=True) as engine:
        assert engine.info().index["segments"] == 1
        assert engine.search(query).hits == before
