"""One process of the dataflow. `guard flow` starts and restarts as many as are wanted; this is what they run.

SIGTERM keeps its default: a process that is told to go goes at once, and resumes from the last snapshot. There is one
way back, and it is used every day.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import structlog
from bytewax.recovery import RecoveryConfig
from bytewax.run import cli_main
from cyclopts import App, Parameter

from connectors import metrics
from connectors.redaction import redacting_processor
from flows import heal, logs, observe
from flows.garbage import look_once
from flows.servers import redactor
from flows.settings import Settings
from flows.supervise import AGAIN, HOPELESS
from models.records.errors import GuardError, InputError, Unavailable

app = App(name="flows.worker", help="One process of the dataflow.", version_flags=[])


@app.default
def main(
    *,
    process: int,
    settings: Path | None = None,
    from_progress: Annotated[bool, Parameter(negative=())] = False,
    ephemeral: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Run process number PROCESS of the cluster that the settings describe."""
    given = {"flow": {"ephemeral": True}} if ephemeral else {}
    read = Settings.load(os.environ, path=settings, given=given)
    logs.configure(read.logging, redact=redacting_processor(redactor(read)))
    log = structlog.get_logger()
    try:
        run(read, process, anew=from_progress)
    except BaseException as error:  # a panic of the engine is no Exception
        reason = _told(error) or next(iter(heal.RAISED), None)
        if reason is None:
            raise
        log.error("the flow cannot run", error=str(reason), process=process)  # noqa: TRY400 - theirs, not our bug
        sys.exit(AGAIN if isinstance(reason, Unavailable) else HOPELESS)


def _told(error: BaseException | None) -> GuardError | None:
    """What we raised on purpose, out of the engine's wrapping too; None where the fault is ours."""
    while error is not None:
        if isinstance(error, GuardError) and not isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None


def run(settings: Settings, process: int, *, anew: bool) -> None:
    """Run the dataflow in this process until it fails or is told to go."""
    flow = settings.flow
    directory = None if flow.ephemeral else flow.recovery_dir
    assembled = heal.assembled(settings, directory, process=process, anew=anew, backup_seconds=flow.backup_seconds)
    metrics.expose("flow", version=heal.VERSION)
    metrics.serve(flow.metrics_host, flow.metrics_port + process)
    if process == 0:
        observe.Backlog(heal.redis_client(settings), heal.postgres_url(settings)).start()
    recovery = RecoveryConfig(str(directory), timedelta(seconds=flow.backup_seconds)) if directory else None
    look_once()
    cli_main(
        assembled,
        process_id=process if flow.processes > 1 else None,
        addresses=flow.cluster() or None,
        epoch_interval=timedelta(seconds=flow.snapshot_seconds),
        recovery_config=recovery,
    )


if __name__ == "__main__":
    app()
