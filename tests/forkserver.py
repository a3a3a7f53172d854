"""Python processes for tests, forked from one that has imported what they need, which alone takes seconds.

They are killed, run out of disk, and hold locks like any other process; they are not for what is new in a new
interpreter (which modules are loaded, how the main module is found).
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import textwrap
from collections.abc import Sequence
from multiprocessing.connection import Connection

_FORKED = multiprocessing.get_context("forkserver")
_KERNELS = (f"delf_engine.{room}.kernels" for room in ("index.asmk", "index.codebook", "matching", "verification"))
_FORKED.set_forkserver_preload(
    ["cv2", "scipy.spatial", "delf_engine.engine", "delf_engine.model.network", *_KERNELS]
)


class Child:
    """A process that runs some code, like `subprocess.Popen`; pipes of text to its input and from its output."""

    def __init__(self, code: str, *arguments: object) -> None:
        theirs_in, ours_in = _FORKED.Pipe(duplex=False)
        ours_out, theirs_out = _FORKED.Pipe(duplex=False)
        words = ["-c", *map(str, arguments)]
        self._process = _FORKED.Process(target=_run, args=(textwrap.dedent(code), words, theirs_in, theirs_out))
        self._process.start()
        self.pid = self._process.pid
        self.stdin = os.fdopen(os.dup(ours_in.fileno()), "w")
        self.stdout = os.fdopen(os.dup(ours_out.fileno()))
        for connection in (theirs_in, ours_in, ours_out, theirs_out):
            connection.close()

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()

    def poll(self) -> int | None:
        """Return the exit code if it has ended."""
        return self._process.exitcode

    def wait(self) -> int:
        """Wait for the end; return the exit code, or the number of the signal that was the end, negative."""
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def communicate(self) -> str:
        """End its input, read its output to the end, wait; return the output."""
        self.stdin.close()
        with self.stdout:
            text = self.stdout.read()
        self.wait()
        return text


def _run(code: str, words: Sequence[str], stdin: Connection, stdout: Connection) -> None:
    """Run the code as ``python -c`` does."""
    for connection, number in ((stdin, 0), (stdout, 1)):
        os.dup2(connection.fileno(), number)
        connection.close()
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.argv = list(words)
    exec(compile(code, "<child>", "exec"), {"__name__": "__main__"})
