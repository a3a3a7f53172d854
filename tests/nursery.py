"""Python processes for tests, forked from one that has imported what they need, which alone takes a second.

They are killed, run out of disk, and hold locks like any other process; they are not for what is new in a new
interpreter (which modules are loaded, how the main module is found).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import traceback
from pathlib import Path
from typing import Any, NoReturn

#: Loaded before the forks. Nothing here may start a thread, since no thread survives a fork.
PRELOADED = ("cv2", "numba", "scipy.spatial", "index.kinds", "index.steps", "delf_engine.engine")
_TESTS = Path(__file__).parent


class Child:
    """A process that runs some code, like `subprocess.Popen`; pipes of text to its input and from its output."""

    def __init__(self, code: str, *arguments: object) -> None:
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        ours_status, theirs_status = os.pipe()
        request = {"code": textwrap.dedent(code), "arguments": [*map(str, arguments)], "cwd": os.getcwd()}
        theirs = [theirs_in, theirs_out, theirs_status]
        socket.send_fds(_nursery(), [json.dumps(request).encode() + b"\n"], theirs)
        for descriptor in theirs:
            os.close(descriptor)
        self.stdin, self.stdout = os.fdopen(ours_in, "w"), os.fdopen(ours_out)
        self.returncode: int | None = None
        self._status = os.fdopen(ours_status)
        self.pid = int(self._status.readline())

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it is known that the process has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self) -> int:
        """Wait for the end; return the exit code, or the number of the signal that was the end, negative."""
        if self.returncode is None:
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def communicate(self) -> tuple[str, None]:
        """End its input, read its output to the end, wait; return the output."""
        self.stdin.close()
        with self.stdout:
            text = self.stdout.read()
        self.wait()
        return text, None


@functools.cache
def _nursery() -> socket.socket:
    """Start the process that forks, once in a process of pytest; it ends when the socket is closed."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-c", "from nursery import serve; serve()", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        # One thread: BLAS and OpenMP start theirs when they are loaded.
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_TESTS), str(_TESTS.parent), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
        },
    )
    theirs.close()

    def close() -> None:
        ours.close()
        process.wait()

    atexit.register(close)
    return ours


def serve() -> None:
    """Import the modules, then fork for every request until the socket is closed."""
    for module in PRELOADED:
        importlib.import_module(module)
    tasks = Path("/proc/self/task")
    assert not tasks.is_dir() or len(list(tasks.iterdir())) == 1, "a module has started a thread"
    gc.freeze()  # what a collection does not touch is not copied in every fork
    channel = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, _reap)
    while True:
        line, descriptors, _, _ = socket.recv_fds(channel, 1 << 16, 3)
        while line and not line.endswith(b"\n"):
            line += channel.recv(1 << 16)
        if not line:
            return
        if os.fork() == 0:
            channel.close()
            _guard(json.loads(line), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _guard(request: dict[str, Any], stdin: int, stdout: int, status: int) -> NoReturn:
    """Fork once more; tell the process's number and how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(status)
        _run(request, stdin, stdout)
    os.close(stdin)
    os.close(stdout)
    os.write(status, f"{pid}\n".encode())
    _, how = os.waitpid(pid, 0)
    os.write(status, f"{os.waitstatus_to_exitcode(how)}\n".encode())
    os._exit(0)


def _run(request: dict[str, Any], stdin: int, stdout: int) -> NoReturn:
    """Run the code as ``python -c`` does, and end at once: to take down all that is loaded would take a second."""
    for descriptor, number in ((stdin, 0), (stdout, 1)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.argv = ["-c", *request["arguments"]]
    os.chdir(request["cwd"])
    status = 1
    try:
        exec(compile(request["code"], "<child>", "exec"), {"__name__": "__main__"})
        status = 0
    finally:
        if status:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
