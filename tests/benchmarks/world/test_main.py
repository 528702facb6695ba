"""The world as a process: it posts, its APIs are asked, and at the end it says what was true."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.world.web import Answer, Asked, serving
from connectors.holding import hold
from connectors.http import Api, Client, Limits
from connectors.platforms import PLATFORMS
from connectors.platforms.platform import Credential, Request
from flows.embedded import free_ports
from models.records.calls import Ambiguous, Call, Done, Refused, RerunJob, Unavailable
from models.records.event import EventType

SECRETS = {"lab": {"platform": "gitlab", "kind": "token", "secret": "s"}}


def test_what_fails_is_run_again_over_http_and_the_world_knows_it(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text(json.dumps(SECRETS))
    (tmp_path / "apis.json").write_text(json.dumps({"gitlab": "lab"}))
    port, failed = free_ports(), asyncio.Queue[Call]()

    def received(asked: Asked) -> Answer:
        request = Request(asked.headers, asked.body, time.time())
        for event in PLATFORMS["gitlab"].events(request, "main").events:
            if event.event_type is EventType.FAILED and event.job_id is not None:
                names: Any = {"repository": event.repository, "pipeline_id": event.pipeline_id, "job_id": event.job_id}
                failed.put_nowait(RerunJob(platform="gitlab", instance="main", **names))
        return Answer(200)

    async def main() -> list[Any]:
        async with serving(received) as receiver:
            options = {
                "url": f"http://127.0.0.1:{receiver}/webhooks",
                "secrets-json": tmp_path / "secrets.json",
                "logs-json": tmp_path / "apis.json",
                "logs-port": port,
                "truth": tmp_path / "truth.jsonl",
                "speed": 600,
                "rate": 20,
                "duration": 5,
                "duplicates": 0,
                "api-faults": 0.2,
                "api-fault-kinds": "hang_up_after,500_before,garbage_after",
            }
            words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
            world = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.world", *words, stdout=subprocess.PIPE
            )
            login = PLATFORMS["gitlab"].login(Credential("token", "lab"))
            client = Client(Api(f"http://127.0.0.1:{port}/gitlab", login), Limits(read_seconds=2.0))
            ended: list[Any] = []
            while len(ended) < 10:
                call = await asyncio.wait_for(failed.get(), 60)
                talk = PLATFORMS["gitlab"].ask(call)
                assert talk is not None
                ended.append(await hold(client, talk, time.time))
            await client.close()
            output, _ = await world.communicate()
            return [*ended, json.loads(output)]

    *ended, said = asyncio.run(main())
    lines = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    acts = [line for line in lines if line["record"] == "act"]
    done = sum(isinstance(one, Done) for one in ended)
    unclear = sum(isinstance(one, Ambiguous) for one in ended)
    assert all(isinstance(one, Done | Ambiguous | Refused | Unavailable) for one in ended)
    assert done <= len(acts) <= done + unclear
    assert said["truth"]["reruns"] == len(acts)
    assert said["truth"]["invalid_requests"] == 0
    assert [line for line in lines if line["record"] == "failure"]
    assert lines[-1]["record"] == "counts"
