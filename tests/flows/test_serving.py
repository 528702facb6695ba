"""Servers of a process, and how they end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LATE_THREAD = """
import asyncio, threading, time
from flows.embedded import free_ports
from flows.serving import all_until, server

told = asyncio.BaseEventLoop.call_soon_threadsafe

def late(loop, *args, **kwargs):
    handle = told(loop, *args, **kwargs)
    if threading.get_ident() != threading.main_thread().ident:
        time.sleep(0.5)
    return handle

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, stop.set)
    await all_until(stop, [server(None, "127.0.0.1", free_ports())], [])

class SlowEnd:
    def __del__(self, sleep=time.sleep):
        sleep(2)

asyncio.slow_end = SlowEnd()  # not here: the frame of the late thread would keep it
asyncio.BaseEventLoop.call_soon_threadsafe = late
asyncio.run(main())
"""


def test_the_interpreter_ends_only_after_the_threads_of_the_server() -> None:
    ended = subprocess.run([sys.executable, "-c", _LATE_THREAD], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
