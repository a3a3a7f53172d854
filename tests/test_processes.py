"""The process pool: what dies takes only its own call along, nothing outlives the pool."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from delf_engine.errors import ConfigError, DelfEngineWarning, ProcessDiedError
from delf_engine.support import processes
from delf_engine.support.processes import ProcessPool, map_ordered, process_pool
from forkserver import Child
from helpers import is_running, raises


class PairWarning(UserWarning):
    def __init__(self, a: str, b: str) -> None:
        super().__init__(a + b)


def warn_strangely(how: str) -> None:
    made: Warning = PairWarning("stra", "nge")
    if how != "arguments":
        category = type("StrangeWarning", (UserWarning,), {"__module__": "only_there"})
        made = category("strange")
        if how == "module":
            sys.modules["only_there"] = SimpleNamespace(StrangeWarning=category)  # type: ignore[assignment]
    warnings.warn(made, stacklevel=1)


def test_a_warning_that_cannot_be_had_or_made_here_is_ours() -> None:
    with process_pool(1) as pool:
        for how in ("pickle", "module", "arguments"):
            with pytest.warns(DelfEngineWarning, match="strange"):
                pool.submit(warn_strangely, how).result()


def test_results_and_errors_come_back() -> None:
    with process_pool(2) as pool:
        sums = [pool.submit(np.add, np.arange(3), i) for i in range(20)]
        wrong = pool.submit(int, "x")
        with pytest.warns(DelfEngineWarning, match="said there"):
            pool.submit(warnings.warn, "said there", DelfEngineWarning).result()
        pids = {pool.submit(os.getpid).result() for _ in range(20)}
        for i, future in enumerate(sums):
            np.testing.assert_array_equal(future.result(), np.arange(3) + i)
        with pytest.raises(ValueError, match="'x'"):
            wrong.result()
        assert os.getpid() not in pids
        assert 1 <= len(pids) <= 2


def test_processes_begin_as_asked_and_with_one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with process_pool(1, partial(os.chdir, tmp_path)) as pool:
        assert pool.submit(os.getcwd).result() == str(tmp_path)
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize(
    ("deadly", "argument"), [(ctypes.string_at, 0), (signal.raise_signal, signal.SIGKILL), (os._exit, 3)]
)
def test_a_death_takes_only_its_own_call(deadly: Callable[[int], object], argument: int) -> None:
    with process_pool(2) as pool:
        calls: list[Future[object]] = []
        for i in range(30):
            calls.append(pool.submit(deadly, argument) if i == 10 else pool.submit(abs, -i))
        wait(calls)
        assert [c.result() for i, c in enumerate(calls) if i != 10] == [i for i in range(30) if i != 10]
        with pytest.raises(ProcessDiedError):
            calls[10].result()


def test_a_process_that_is_killed_in_the_middle_of_a_large_answer() -> None:
    with process_pool(2) as pool:
        for _ in range(3):
            calls = [pool.submit(np.zeros, 20_000_000) for _ in range(4)]
            wait(calls[:1])
            for process in multiprocessing.active_children():
                process.kill()
            assert all(call.result().nbytes == 160_000_000 for call in calls)


def test_a_process_that_dies_while_it_has_nothing_to_do_is_replaced() -> None:
    before = set(multiprocessing.active_children())
    with process_pool(1) as pool:
        pid = pool.submit(os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        while is_running(pid):
            time.sleep(0.01)
        assert pool.submit(abs, -1).result() == 1
        assert len(set(multiprocessing.active_children()) - before) == 1


def test_the_end_is_at_once_and_leaves_nobody() -> None:
    before = set(multiprocessing.active_children())
    with process_pool(2) as pool:
        at_work = [pool.submit(time.sleep, 100) for _ in range(6)]
        while len(started := set(multiprocessing.active_children()) - before) < 2:
            time.sleep(0.01)
        begin = time.monotonic()
    assert time.monotonic() - begin < 20
    assert not any(is_running(process.pid) for process in started)
    for future in at_work:
        with pytest.raises(CancelledError):
            future.result(timeout=1)
    with pytest.raises(RuntimeError):
        pool.submit(abs, 1)
    pool.shutdown()  # once more is harmless


def test_shutdown_finishes_what_was_asked_for() -> None:
    with ProcessPool(1) as pool:
        calls = [pool.submit(abs, -i) for i in range(10)]
    assert [call.result(timeout=0) for call in calls] == list(range(10))


def test_kept_processes_serve_the_next_block_and_end_in_time() -> None:
    with process_pool(1, keep_seconds=60) as pool:
        pid = pool.submit(os.getpid).result()
    with process_pool(1, keep_seconds=0.1) as pool:
        assert pool.submit(os.getpid).result() == pid
    deadline = time.monotonic() + 60
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(pid)
    with process_pool(1, keep_seconds=60) as pool:
        pid = pool.submit(os.getpid).result()
    with pytest.raises(ZeroDivisionError), process_pool(1, keep_seconds=60) as pool:
        raise ZeroDivisionError
    assert not is_running(pid)  # not after an error


def test_kept_processes_end_with_the_program() -> None:
    code = """
        import os
        from delf_engine.support.processes import process_pool
        with process_pool(1, keep_seconds=1000) as pool:
            print(pool.submit(os.getpid).result(), flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not is_running(int(done.stdout))


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"  # without `if __name__ == "__main__"`
    script.write_text(
        textwrap.dedent(
            """
            import multiprocessing, signal, time
            from delf_engine.support.processes import process_pool
            signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
            with process_pool(2) as pool:
                pool.submit(abs, 1).result()
                at_work = [pool.submit(time.sleep, 100) for _ in range(3)]
                while len(multiprocessing.active_children()) < 2:
                    time.sleep(0.01)
                print(*[process.pid for process in multiprocessing.active_children()], flush=True)
                at_work[0].result()
            """
        )
    )
    # A session of its own, all of which gets the signal, as from a terminal.
    run = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert run.stdout is not None
    pids = [int(word) for word in run.stdout.readline().split()]
    assert len(pids) == 2
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == -signal.SIGINT, errors
    assert errors.count("Traceback") == 1, errors
    assert not any(is_running(pid) for pid in pids)


def test_daemonic_processes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "can_start_processes", lambda: False)
    with raises(ConfigError, "workers=0"):
        ProcessPool(1)


def test_ordered_with_a_bound() -> None:
    taken = 0

    def numbers() -> Iterator[int]:
        for i in count():
            assert i <= taken + 4
            yield i

    with process_pool(2) as pool:
        for i, future in map_ordered(lambda i: pool.submit(pow, i, 2), numbers(), 4):
            assert i == taken
            assert future.result() == i**2
            taken += 1
            if taken == 50:
                break
    assert list(map_ordered(lambda i: pool.submit(abs, i), [], 4)) == []


def test_a_fork_leaves_kept_processes_to_its_parent() -> None:
    code = """
        import os
        from delf_engine.support.processes import process_pool
        def pid():
            with process_pool(1, keep_seconds=60) as pool:
                return pool.submit(os.getpid).result()
        kept = pid()
        child = os.fork()
        if not child:
            os._exit(0 if pid() != kept else 1)
        print(os.waitpid(child, 0)[1], pid() == kept)
    """
    assert Child(code).communicate().split() == ["0", "True"]
