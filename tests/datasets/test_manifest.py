from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delf_engine.datasets.manifest import FileRecord, Manifest, PartRecord, read_hashes, write_hashes
from delf_engine.errors import FormatError

NAMES = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), min_size=1, max_size=12)
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(st.dictionaries(NAMES, HASHES, max_size=6))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lists_of_hashes_are_read_as_they_were_written(tmp_path: Path, hashes: dict[str, str]) -> None:
    path = tmp_path / "deep" / "x.sha256"
    write_hashes(path, hashes)
    assert read_hashes(path) == hashes
    before = path.read_bytes()
    write_hashes(path, dict(reversed(hashes.items())))
    assert path.read_bytes() == before


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    hashes = {b"jpg/caf\xe9.jpg".decode("utf-8", "surrogateescape"): "0" * 64}
    write_hashes(tmp_path / "x.sha256", hashes)
    assert read_hashes(tmp_path / "x.sha256") == hashes


@pytest.mark.parametrize("text", ["x", "0" * 63 + "  a", "0" * 64 + " a", "0" * 64 + "  ", "G" * 64 + "  a"])
def test_lines_that_are_no_hash_and_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.sha256").write_text("0" * 64 + f"  good\n{text}\n")
    with pytest.raises(FormatError, match=r"x\.sha256: line 2 is not a SHA-256 and a name"):
        read_hashes(tmp_path / "x.sha256")
    with pytest.raises(FormatError, match="cannot be read"):
        read_hashes(tmp_path / "gone")


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert Manifest.read(tmp_path) == Manifest(tmp_path)
    files = {"b": FileRecord("http://x/b", 2, "1" * 64), "a": FileRecord("http://x/a", 1, "0" * 64)}
    parts = {"jpg/x.tgz": PartRecord("http://x/x.tgz", 3, "2" * 64, "MD5 3", 4, 5, ".received/jpg/x.tgz.sha256")}
    Manifest(tmp_path, files, parts).write()
    assert Manifest.read(tmp_path) == Manifest(tmp_path, files, parts)
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]
