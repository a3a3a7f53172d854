from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data_sets.toys import TRUTH, jpeg, truth_file
from delf_engine.datasets import KNOWN, Dataset, Definition, data_folder, definition, get, locate
from delf_engine.errors import DataError, FormatError
from delf_engine.support.files import file_sha256
from helpers import raises


def test_the_table() -> None:
    assert list(KNOWN) == ["roxford5k", "rparis6k", "revisitop1m", "gldv2-index", "gldv2-test"]
    for known in KNOWN.values():
        assert (known.ground_truth is None) != (known.listing is None)
        assert {known.ground_truth, known.listing} & set(known.files)
        assert set(known.hashes) <= set(known.files)
        addresses = [known.archive, *known.files.values(), known.homepage]
        assert all(address.startswith("http") for address in addresses)
        names = [known.archive_name(part) for part in known.parts]
        assert len(set(names)) == len(names)
        assert "  " not in known.citation
    assert definition("gldv2-index").archive.format(7).endswith("/index/images_007.tar")
    assert definition("gldv2-test").md5 is not None
    assert (len(definition("revisitop1m").parts), len(definition("gldv2-index").parts)) == (100, 100)
    assert len(definition("rparis6k").corrupt) == 20
    with raises(DataError, "rparis6k"):
        definition("rparis")


def test_where_data_sets_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DELF_ENGINE_DATA", "DELF_ENGINE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert data_folder().name == "data"
    monkeypatch.setenv("DELF_ENGINE_HOME", "/home")
    assert data_folder() == Path("/home/data")
    monkeypatch.setenv("DELF_ENGINE_DATA", "~/sets")
    assert data_folder() == Path("~/sets").expanduser()
    assert data_folder(tmp_path) == tmp_path


def test_locate(toy: Definition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with raises(DataError, "delf-engine data get toy"):
        locate("toy", tmp_path)
    get("toy", tmp_path)
    monkeypatch.setenv("DELF_ENGINE_DATA", str(tmp_path))
    found = locate("toy")
    assert (found.name, found.folder, found.images) == ("toy", tmp_path / "toy", tmp_path / "toy" / "jpg")
    assert found.expected == tuple(f"toy_{i}.jpg" for i in range(8))
    assert locate(str(tmp_path / "toy")) == found
    with raises(DataError, "'toys'"):
        locate("toys")


def test_a_set_that_was_put_there_by_hand(toy: Definition, tmp_path: Path) -> None:
    (tmp_path / "toy" / "jpg").mkdir(parents=True)
    with raises(DataError, "gnd_toy.pkl"):
        locate("toy", tmp_path)
    (tmp_path / "toy" / "gnd_toy.pkl").write_bytes(TRUTH)
    found = locate("toy", tmp_path)
    assert found.parts == ()
    assert found.missing() == list(found.expected)
    (tmp_path / "toy" / "gnd_toy.pkl").write_bytes(truth_file(["toy_1"], ["toy_2"]))
    with raises(DataError, "gnd_toy.pkl", "8 and 2"):
        locate("toy", tmp_path).missing()


def test_the_official_ground_truths_are_told_apart(data: Path, tmp_path: Path) -> None:
    (tmp_path / "roxford5k" / "jpg").mkdir(parents=True)
    place_of_truth = tmp_path / "roxford5k" / "gnd_roxford5k.pkl"
    shutil.copyfile(data / "revisited" / "gnd_rparis6k.pkl", place_of_truth)
    with raises(DataError, "6392", "5063"):
        locate("roxford5k", tmp_path).missing()
    shutil.copyfile(data / "revisited" / "gnd_roxford5k.pkl", place_of_truth)
    assert len(locate("roxford5k", tmp_path).missing()) == 5063
    for name in ("roxford5k", "rparis6k"):
        assert file_sha256(data / "revisited" / f"gnd_{name}.pkl") == KNOWN[name].hashes[f"gnd_{name}.pkl"]


def test_open_a_folder_of_ones_own(tmp_path: Path) -> None:
    with raises(DataError, str(tmp_path)):
        Dataset.open(tmp_path)
    (tmp_path / "gnd_scene.pkl").write_bytes(truth_file(["a", "b.png", "c/d"], ["q"]))
    with raises(DataError, "jpg"):
        Dataset.open(tmp_path)
    for name in ("a.jpg", "b.png", "c/d.jpg"):
        path = tmp_path / "jpg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(0))
    found = locate(str(tmp_path))
    assert (found.name, found.definition, found.parts) == ("scene", None, ())
    assert found.expected == ("a.jpg", "b.png", "c/d.jpg", "q.jpg")
    assert found.missing() == ["q.jpg"]
    (tmp_path / "gnd_other.pkl").write_bytes(b"")
    with raises(DataError, "gnd_other.pkl, gnd_scene.pkl"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize("content", ["", "id\n", None])
def test_lists_that_are_none(letters: Definition, tmp_path: Path, content: str | None) -> None:
    found = Dataset.of(letters, tmp_path)
    if content is not None:
        (found.folder / "metadata").mkdir(parents=True)
        (found.folder / "metadata" / "index.csv").write_text(content)
    with raises(FormatError, "index.csv"):
        found.missing()
