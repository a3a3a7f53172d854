"""Files are whole or not there; cores are those that may be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from delf_engine.system import replacing, usable_cores


def _half_done(path: Path) -> None:
    path.write_bytes(b"two")
    raise ZeroDivisionError


@pytest.mark.parametrize("durable", [True, False])
def test_replacing(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / ("n" * 255)  # as long as a name can be
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    with pytest.raises(ZeroDivisionError), replacing(path, durable=durable) as temporary:
        _half_done(temporary)
    assert path.read_bytes() == b"one"
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(b"three")
    assert path.read_bytes() == b"three"
    assert os.listdir(tmp_path) == [path.name]


def test_replacing_a_file_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="irectory"), replacing(tmp_path / "folder") as temporary:
        temporary.write_bytes(b"one")
    assert os.listdir(tmp_path) == ["folder"]


def test_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
