"""Why jobs fail here, with the words in which real tools say so.

`heals` is the truth that the scorer has to find: real faults never pass on the same commit, flaky tests mostly do, and
an outage passes once it is over.
"""

from __future__ import annotations

from typing import Final

from benchmarks.world.records import Trouble

REAL: Final = (
    Trouble(
        "test_assertion",
        "real",
        "test",
        0.0,
        ("FAILED tests/test_orders.py::test_total - AssertionError: assert 41 == 42", "=== 1 failed, 212 passed ==="),
        weight=4,
        tests_failed=1,
    ),
    Trouble(
        "many_tests",
        "real",
        "test",
        0.0,
        ("[ERROR] Tests run: 148, Failures: 17, Errors: 2, Skipped: 1", "[INFO] BUILD FAILURE"),
        weight=1,
        tests_failed=19,
    ),
    Trouble(
        "compile_error",
        "real",
        "build",
        0.0,
        (
            "src/router.c:118:9: error: use of undeclared identifier 'timeout_ms'",
            "make: *** [Makefile:31: all] Error 1",
        ),
        weight=3,
    ),
    Trouble(
        "lint", "real", "lint", 0.0, ("src/app.py:12:1: F401 'os' imported but unused", "Found 1 error."), weight=3
    ),
    Trouble(
        "lock_file_conflict",
        "real",
        "deps",
        0.0,
        ("npm ERR! code ERESOLVE", "npm ERR! ERESOLVE unable to resolve dependency tree"),
        weight=1,
    ),
    Trouble(
        "credentials",
        "real",
        "deploy",
        0.0,
        ("ExpiredToken: The security token included in the request is expired",),
        weight=1,
    ),
    Trouble(
        "missing_artifact",
        "real",
        "deploy",
        0.0,
        ("ERROR: This job depends on other jobs with expired or erased artifacts",),
        gitlab="missing_dependency_failure",
        weight=0.5,
    ),
)
"""Faults of the commit: they stay until another commit mends them."""

FLAKY: Final = (
    Trouble(
        "flaky_timing",
        "flaky",
        "test",
        1.0,
        ("FAILED tests/test_queue.py::test_drains - TimeoutError: waited 5.0 s", "=== 1 failed, 212 passed ==="),
        weight=2,
        tests_failed=1,
    ),
    Trouble(
        "flaky_order",
        "flaky",
        "test",
        1.0,
        ("--- FAIL: TestConcurrentWriters (0.31s)", "    writers_test.go:88: got [b a], want [a b]", "FAIL"),
        tests_failed=1,
    ),
    Trouble(
        "flaky_browser",
        "flaky",
        "test",
        1.0,
        ("AssertionError: Timed out retrying after 4000ms: Expected to find element: `#submit`",),
        tests_failed=2,
    ),
)
"""Tests that fail for no reason; how often is a property of the job."""

OUTAGES: Final = (
    Trouble(
        "registry_down",
        "infrastructure",
        "image",
        0.9,
        ("Error response from daemon: received unexpected HTTP status: 503 Service Unavailable",),
        weight=3,
    ),
    Trouble(
        "package_index_down",
        "infrastructure",
        "deps",
        0.9,
        ("npm ERR! code ECONNRESET", "npm ERR! network request to registry failed, reason: read ECONNRESET"),
        weight=3,
    ),
    Trouble(
        "network_down",
        "infrastructure",
        "checkout",
        0.92,
        ("fatal: unable to access 'https://git.example.com/': Could not resolve host: git.example.com",),
        gitlab="runner_system_failure",
        weight=2,
    ),
    Trouble(
        "runner_pool_lost",
        "infrastructure",
        "setup",
        0.93,
        ("ERROR: Agent went offline during the build", "hudson.remoting.ChannelClosedException: Channel is closing"),
        gitlab="runner_system_failure",
        weight=2,
        lost=True,
    ),
)
"""What strikes many repositories at once, for some minutes."""

ALONE: Final = (
    *OUTAGES,
    Trouble(
        "spot_reclaimed",
        "infrastructure",
        "build",
        0.95,
        ("Cannot contact agent-17: java.lang.InterruptedException", "The runner has received a shutdown signal."),
        gitlab="runner_interrupted",
        weight=2,
        lost=True,
    ),
    Trouble(
        "pull_rate_limit",
        "infrastructure",
        "image",
        0.8,
        ("toomanyrequests: You have reached your pull rate limit.",),
        weight=2,
    ),
    Trouble(
        "scheduler",
        "infrastructure",
        "setup",
        0.95,
        ("java.io.IOException: Failed to provision a node",),
        gitlab="scheduler_failure",
        weight=1,
    ),
    Trouble(
        "disk_full",
        "resources",
        "build",
        0.6,
        ("cp: error writing '/workspace/target/app.bin': No space left on device",),
        weight=2,
    ),
    Trouble(
        "out_of_memory",
        "resources",
        "test",
        0.3,
        ("java.lang.OutOfMemoryError: Java heap space", "ERROR: script returned exit code 137"),
        weight=1,
    ),
)
"""What strikes one job."""

HANG: Final = Trouble(
    "hang",
    "hang",
    "test",
    0.7,
    ("Build timed out (after 60 minutes). Marking the build as aborted.",),
    gitlab="job_execution_timeout",
)
"""Started, and not heard of again, or only when the platform's own limit ends it."""
