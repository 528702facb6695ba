"""Keeps the processes of the dataflow running: all together, since one that dies takes the others with it.

Bytewax restarts nothing. When a process ends, the rest is ended too and all start again from the last snapshot, after a
pause with full jitter that grows while they do not stay up. An error that no restart mends (exit status 2) ends it.
"""

from __future__ import annotations

import ctypes
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

_log = structlog.get_logger()

AGAIN: Final = 1
"""The exit status of a process that may do better later."""
_PR_SET_PDEATHSIG: Final = 1
HOPELESS: Final = 2
"""The exit status of a process that says that starting again will not help."""
_STEADY_SECONDS: Final = 30.0
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 30.0
_GRACE_SECONDS: Final = 5.0
_LAST_WORDS_SECONDS: Final = 0.5
"""How long the others may still end by themselves: the first to end is often not the one that knows why."""


def dies_with_parent(farewell: signal.Signals) -> Callable[[], None] | None:
    """What a child runs before its program: the kernel is to send it `farewell` when its parent is gone."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, int(farewell), 0, 0, 0)


class Supervisor:
    """Runs `commands` side by side until told to stop."""

    def __init__(self, commands: Sequence[Sequence[str]], *, start: Callable[..., subprocess.Popen[bytes]]) -> None:
        """`start` makes a process of a command."""
        self._commands = commands
        self._start = start
        self._stopping = threading.Event()
        self._running: list[subprocess.Popen[bytes]] = []

    def stop(self, *_: object) -> None:
        """End all processes and do not start them again; a signal handler may call it."""
        self._stopping.set()

    def run(self) -> int:
        """Run until stopped (0) or until starting again will not help (the exit status)."""
        attempt = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            self._running = [self._start(command) for command in self._commands]
            status = self._wait()
            self._end_all()
            if self._stopping.is_set():
                break
            if HOPELESS in {process.returncode for process in self._running}:
                return HOPELESS
            attempt = 0 if time.monotonic() - began > _STEADY_SECONDS else attempt + 1
            pause = random.uniform(0, min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE))  # noqa: S311 - jitter
            _log.warning("a process of the flow ended", status=status, restart_in_seconds=round(pause, 2))
            self._stopping.wait(pause)
        return 0

    def _wait(self) -> int | None:
        """Wait for the first process to end; its status, or None when told to stop."""
        while not self._stopping.wait(0.05):
            for process in self._running:
                status = process.poll()
                if status is not None:
                    return status
        return None

    def _end_all(self) -> None:
        if not self._stopping.is_set():
            self._reap(time.monotonic() + _LAST_WORDS_SECONDS)
        for process in self._running:
            if process.poll() is None:
                process.terminate()
        for process in self._reap(time.monotonic() + _GRACE_SECONDS):
            process.kill()
            process.wait()

    def _reap(self, deadline: float) -> list[subprocess.Popen[bytes]]:
        """Wait for all to end; those that have not by then."""
        left = []
        for process in self._running:
            try:
                process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                left.append(process)
        return left


def supervise(commands: Sequence[Sequence[str]]) -> int:
    """Run `commands` under the signals of this process; the exit status to end with."""
    supervisor = Supervisor(commands, start=_start)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.stop)
    return supervisor.run()


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, preexec_fn=dies_with_parent(signal.SIGKILL))  # noqa: PLW1509 - only one thread


def workers(processes: int, arguments: Sequence[str]) -> list[list[str]]:
    """The command of each process of the dataflow."""
    return [[sys.executable, "-m", "flows.worker", "--process", str(i), *arguments] for i in range(processes)]
