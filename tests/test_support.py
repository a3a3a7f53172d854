"""Files are whole or not there; cores are those that may be used."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delf_engine.errors import FormatError, LockedError, UnknownIdError
from delf_engine.support.arrays import LARGEST, check_array
from delf_engine.support.files import acquired, locked, replacing, system_errors
from delf_engine.support.threads import in_threads, uninterrupted, usable_cores
from helpers import raises


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


@pytest.mark.parametrize(
    ("values", "dtype", "shape"),
    [
        ("text", np.float32, (None,)),
        ([[1.0], [1.0, 2.0]], np.float32, (None, None)),
        ([1.0, np.nan], np.float32, (None,)),
        ([1e300], np.float32, (None,)),
        ([1.0], np.float32, (None, 2)),
        (np.zeros((3, 3)), np.float32, (None, 2)),
        ([0.5], np.int64, (None,)),
        ([-1], np.uint8, (None,)),
        ([256], np.uint8, (None,)),
        ([1e16], np.float32, (None,)),
        (3.0, np.float64, (1,)),
        (["1"], np.int64, (None,)),
    ],
)
def test_arrays_that_are_refused(values: Any, dtype: type[np.generic], shape: tuple[int | None, ...]) -> None:
    with pytest.raises(FormatError):
        check_array("values", values, dtype, shape, error=FormatError, largest=LARGEST)


def test_arrays_that_are_taken() -> None:
    given = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert check_array("values", given, np.float32, (None, 3)) is given
    turned = check_array("values", given.T, np.float32, (3, None))
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(turned, given.T)
    assert check_array("values", [], np.int64, (None,)).dtype == np.int64
    assert check_array("values", [1.0, 2.0], np.uint8, (2,)).tolist() == [1, 2]
    assert check_array("values", 3, np.float64, ()).shape == ()
    assert np.isinf(check_array("values", [1e300], np.float32, (None,), finite=False)).all()


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, "busy"):
        with pytest.raises(LockedError) as caught:
            acquired(path, "busy")
        assert str(caught.value) == "busy"
    acquired(path, "busy").release()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FormatError):
        acquired(tmp_path / "file" / "lock", "busy")


def test_errors_of_the_system_become_ours(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught, system_errors("x: cannot be read"):
        (tmp_path / "none").read_bytes()
    assert str(caught.value) == "x: cannot be read: No such file or directory"


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_a_thread_is_raised(threads: int) -> None:
    def call(i: int) -> int:
        if i == 5:
            raise UnknownIdError("five")
        return i

    seen: list[int] = []
    with raises(UnknownIdError, "five"):
        in_threads(call, 100, threads, seen.append)
    assert seen == [1, 2, 3, 4, 5]
    assert in_threads(call, 5, threads) == [0, 1, 2, 3, 4]


def test_ctrl_c_waits_for_the_end_of_the_block() -> None:
    done = []

    @uninterrupted()
    def block() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("inner")
        done.append("outer")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            block()
        assert done == ["inner", "outer"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(ZeroDivisionError), uninterrupted():
            raise ZeroDivisionError
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_not_reached_by_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(uninterrupted()(lambda: signal.getsignal(signal.SIGINT))).result() is before
