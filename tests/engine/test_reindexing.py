"""Engines of every kind of index, and engines that are given another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

import delf_engine as de
from delf_engine.cli import app
from delf_engine.engine import reindexing
from delf_engine.engine import state as state_module
from delf_engine.errors import ConfigError, FormatError, LockedError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index import KINDS, Codebook, Mixture
from forkserver import Child
from helpers import raises, random_features


def descriptors(seed: int, count: int) -> npt.NDArray[np.float32]:
    return random_features(np.random.default_rng(seed), count).descriptors


ITEMS = [
    (f"{i}.jpg", random_features(np.random.default_rng(i), n)) for i, n in enumerate([30, 0, 8, 40, 40, 1, 25])
]
QUERY = ITEMS[3][1]
WORDS = Codebook(descriptors(20, 20))
MIXTURE = Mixture.train(descriptors(21, 200), 3)


def words_of(kind: str) -> Any:
    return {"kdtree": None, "fisher": MIXTURE}.get(kind, WORDS)


def filled(folder: Path, model: Path, kind: Any) -> de.Engine:
    engine = de.Engine.create(folder, model=model, index=kind, codebook=words_of(kind))
    engine.add_features(ITEMS)
    return engine


def found(engine: de.Engine, query: LocalFeatures = QUERY) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in engine.search(query, top_k=99, top_n=0)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", ["asmk", "kdtree", "fisher"])
def test_another_index_is_as_if_made_with_it(before: str, kind: Any, tmp_path: Path, tiny_model: Path) -> None:
    steps: list[tuple[int, int]] = []
    with (
        filled(tmp_path / "e", tiny_model, before) as engine,
        filled(tmp_path / "other", tiny_model, kind) as other,
    ):
        engine.reindex(kind, codebook=words_of(kind), progress=lambda *step: steps.append(step))
        assert steps == [(7, 7)]
        assert found(engine) == found(other)
        assert found(engine)[0][0] == "3.jpg"
        for each in (engine, other):
            each.add_features([("new.jpg", ITEMS[0][1])])
            each.remove("4.jpg")
    with de.Engine.open(tmp_path / "e", readonly=True) as engine, de.Engine.open(tmp_path / "other") as other:
        assert engine.info().index["kind"] == kind
        assert found(engine) == found(other)
        assert engine.ids() == engine.index.ids()
        assert not engine.check().damaged_files
    names = sorted(path.name for path in (tmp_path / "e").iterdir() if not path.name.startswith("."))
    words = [name for name in names if name.startswith("codebook")]
    assert [name for name in names if name.startswith("index")] == ["index-1"]
    assert len(words) == (kind != "kdtree")


def test_descriptors_by_product_quantisation(tmp_path: Path, tiny_model: Path) -> None:
    profile = de.load_profile()
    coded = profile.model_copy(update={"index": "ivf", "ivf": profile.ivf.model_copy(update={"codec": "pq"})})
    words = Codebook(random_features(np.random.default_rng(1), 256).descriptors)
    with de.Engine.create(tmp_path / "e", model=tiny_model, profile=coded, codebook=words) as engine:
        engine.add_features(ITEMS[:4])
    with de.Engine.open(tmp_path / "e") as engine:
        engine.add_features(ITEMS[4:])
        assert found(engine)[0][0] == "3.jpg"
        wanted = found(engine)
        engine.reindex()
        assert found(engine) == wanted
    with raises(ConfigError, "256", "255"):
        de.Engine.create(tmp_path / "f", model=tiny_model, profile=coded, codebook=Codebook(words.centroids[1:]))


def test_words_and_options_stay_unless_others_are_given(tmp_path: Path, tiny_model: Path) -> None:
    with filled(tmp_path / "e", tiny_model, "asmk") as engine:
        packaged = tmp_path / "own.safetensors"
        other = Codebook(descriptors(22, 9))
        other.save(packaged)
        engine.reindex("bow")
        assert engine.manifest.codebook == WORDS.hash
        engine.reindex(codebook=packaged)
        assert (engine.manifest.index, engine.manifest.codebook) == ("bow", other.hash)
        engine.reindex("kdtree")
        assert engine.manifest.codebook is None
        profile = de.load_profile()
        regional = {"asmk": profile.asmk.model_copy(update={"regions": "grid"}), "extraction": None}
        engine.reindex("asmk", profile=profile.model_copy(update=regional))  # words of the checkpoint again
        assert engine.manifest.codebook not in (None, WORDS.hash, other.hash)
        assert engine.manifest.profile.extraction == profile.extraction
        assert engine.index.config.regions == "grid"  # type: ignore[union-attr]


def test_refusals_leave_the_engine_as_it_was(tmp_path: Path, tiny_model: Path) -> None:
    with filled(tmp_path / "e", tiny_model, "asmk") as engine:
        before = found(engine)
        for call, error, message in (
            (lambda: engine.reindex("lsh"), ConfigError, "'lsh'"),  # type: ignore[arg-type]
            (lambda: engine.reindex("vlad"), ConfigError, "vlad"),
            (lambda: engine.reindex("fisher"), ConfigError, "fisher"),
            (lambda: engine.reindex("fisher", codebook=WORDS), ConfigError, "fisher"),
            (lambda: engine.reindex("kdtree", codebook=WORDS), ConfigError, "codebook="),
            (lambda: engine.reindex(codebook=Codebook(np.eye(3))), MismatchError, "3-D"),
            (lambda: engine.reindex(codebook=tmp_path / "nothing"), FormatError, "nothing"),
        ):
            with raises(error, message):
                call()
            assert found(engine) == before
    with de.Engine.open(tmp_path / "e", readonly=True) as engine:
        assert found(engine) == before
        with pytest.raises(LockedError):
            engine.reindex("kdtree")
    with raises(ConfigError, "codebook="):
        de.Engine.create(tmp_path / "f", model=tiny_model, index="kdtree", codebook=WORDS)


@pytest.mark.parametrize("step", ["catch_up", "write_manifest", "remove_unused"])
def test_interrupted_at_any_step(
    step: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(tmp_path / "e", tiny_model, "asmk") as engine:
        before = found(engine)
        with monkeypatch.context() as patch:
            done = getattr(reindexing, step)

            def interrupted(*args: Any, **options: Any) -> None:
                if step == "remove_unused":
                    raise KeyboardInterrupt
                done(*args, **options)
                raise KeyboardInterrupt

            patch.setattr(reindexing, step, interrupted)
            with pytest.raises(KeyboardInterrupt):
                engine.reindex("bow")
    with de.Engine.open(tmp_path / "e") as engine:
        assert engine.ids() == engine.index.ids()
        assert engine.manifest.index == ("bow" if step != "catch_up" else "asmk")
        if step == "catch_up":
            assert found(engine) == before
        assert len(list((tmp_path / "e").glob("index*"))) == 1


def test_killed_while_indexing_anew(tmp_path: Path, tiny_model: Path) -> None:
    with filled(tmp_path / "e", tiny_model, "asmk") as engine:
        before = found(engine)
    code = """
        import os, sys
        import delf_engine as de
        from delf_engine.engine import reindexing
        def kill(*args):
            os.kill(os.getpid(), 9)
        reindexing.write_manifest = kill
        de.Engine.open(sys.argv[1]).reindex("bow")
    """
    assert Child(code, tmp_path / "e").wait() == -9
    with de.Engine.open(tmp_path / "e", readonly=True) as engine:
        assert found(engine) == before
    assert len(list((tmp_path / "e").glob("index*"))) == 2
    with de.Engine.open(tmp_path / "e") as engine:
        assert found(engine) == before
    assert len(list((tmp_path / "e").glob("index*"))) == 1


def test_the_command(tmp_path: Path, tiny_model: Path) -> None:
    filled(tmp_path / "e", tiny_model, "asmk").close()
    result = CliRunner().invoke(app, ["reindex", str(tmp_path / "e"), "--index", "kdtree"])
    assert (result.exit_code, result.stdout.split(",")[0]) == (0, "7 images in an index of kind kdtree")
    result = CliRunner().invoke(app, ["reindex", str(tmp_path / "e"), "--index", "ivf", "--json"])
    assert json.loads(result.stdout)["kind"] == "ivf"


def test_files_of_others_are_left_alone(tmp_path: Path, tiny_model: Path) -> None:
    filled(tmp_path / "e", tiny_model, "asmk").close()
    for name in ("index_backup", "index-old", "index-12"):
        (tmp_path / "e" / name).mkdir()
    for name in ("codebook-big.safetensors", "codebook-0123456789abcdef.safetensors"):
        WORDS.save(tmp_path / "e" / name)
    with de.Engine.open(tmp_path / "e") as engine:
        engine.reindex("bow", codebook=tmp_path / "e" / "codebook-big.safetensors")
    left = {path.name for path in (tmp_path / "e").iterdir()}
    assert {"index_backup", "index-old", "codebook-big.safetensors"} <= left
    assert not {"index", "index-12", "codebook-0123456789abcdef.safetensors"} & left


@pytest.mark.parametrize("readonly", [False, True])
def test_opened_while_another_process_changes_the_index(
    readonly: bool, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path / "e", tiny_model, "asmk").close()
    other = Codebook(descriptors(23, 11))
    other.save(tmp_path / "other.safetensors")
    code = "import sys, delf_engine as de; de.Engine.open(sys.argv[1]).reindex('bow', codebook=sys.argv[2])"
    read, turns = state_module.read_manifest, iter([True])

    def late(directory: Path) -> Any:
        manifest = read(directory)
        if next(turns, False):  # after the first look
            assert Child(code, directory, tmp_path / "other.safetensors").wait() == 0
        return manifest

    monkeypatch.setattr(state_module, "read_manifest", late)
    with de.Engine.open(tmp_path / "e", readonly=readonly) as engine:
        assert (engine.manifest.index, engine.manifest.codebook) == ("bow", other.hash)
        assert found(engine)[0][0] == "3.jpg"
        if readonly:  # what it has opened it keeps
            wanted = found(engine)
            back = "import sys, delf_engine as de; de.Engine.open(sys.argv[1]).reindex('kdtree')"
            assert Child(back, tmp_path / "e").wait() == 0
            assert found(engine) == wanted
    with de.Engine.open(tmp_path / "e") as engine:
        assert engine.manifest.index == ("kdtree" if readonly else "bow")
