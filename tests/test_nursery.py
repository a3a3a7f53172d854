"""Processes forked for tests are processes of their own, and end as others do."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from nursery import Child


def test_it_has_its_input_output_arguments_and_folder(tmp_path: Path) -> None:
    code = """
        import os, sys
        print(sys.argv[1:], __name__, os.getpid())
        print(sys.stdin.readline().upper(), end="", flush=True)
    """
    child = Child(code, 1, tmp_path)
    child.stdin.write("a line\n")
    child.stdin.flush()
    assert child.stdout.readline() == f"['1', '{tmp_path}'] __main__ {child.pid}\n"
    assert child.communicate() == ("A LINE\n", None)
    assert child.returncode == child.wait() == 0
    assert Child("import os; print(os.getcwd())").communicate()[0] == f"{os.getcwd()}\n"


def test_how_it_ended() -> None:
    assert Child("print(end='')").wait() == 0
    assert Child("import os; os.kill(os.getpid(), 9)").wait() == -signal.SIGKILL
    waiting = Child("import sys; print('here', flush=True); sys.stdin.read()")
    assert waiting.stdout.readline() == "here\n"
    waiting.kill()
    assert waiting.communicate() == ("", None)
    assert waiting.returncode == -signal.SIGKILL
    failed = Child("print('said before'); raise OSError('of this test')")
    assert failed.communicate()[0] == "said before\n"
    assert failed.returncode == 1


def test_the_next_one_knows_nothing_of_it() -> None:
    change = """
        import os, sys
        from index import kinds
        kinds.NAMES.clear()
        os.environ["CHANGED"] = "x"
        sys.path.clear()
    """
    assert Child(change).wait() == 0
    look = """
        import os, sys
        from index import kinds
        print(len(kinds.NAMES), "CHANGED" in os.environ, len(sys.path) > 1)
    """
    assert Child(look).communicate()[0] == "8 False True\n"


def test_two_at_once_do_not_hold_each_others_pipes() -> None:
    first, second = (Child("import sys; print(len(sys.stdin.read()))") for _ in range(2))
    first.stdin.write("abc")
    assert first.communicate()[0] == "3\n"
    assert second.communicate()[0] == "0\n"
