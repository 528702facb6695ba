"""What happened at CircleCI while nobody listened: workflows and jobs that have ended."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final
from urllib.parse import urlencode

from connectors.platforms.acting import Asking, Send, Talk, answered, conversation
from connectors.platforms.asking import segments
from connectors.platforms.calls.circleci import judge
from connectors.platforms.past import LONGEST_RUN, MOST_LISTED, Gathering, Read, Recent, is_before
from connectors.platforms.reading import Fields

# The API says more than the webhooks do; what happened must have one name. Other words are no end.
_JOB_WORDS: Final = {
    **{word: word for word in ("success", "failed", "canceled", "unauthorized")},
    **dict.fromkeys(("infrastructure_fail", "timedout", "terminated-unknown"), "failed"),
}
_WORKFLOW_WORDS: Final = frozenset({"success", "failed", "error", "canceled", "unauthorized"})


def recent(name: str, since: datetime, read: Read) -> Talk[Recent]:
    """How the workflows and jobs of the project `name` ended that ended after `since`.

    https://circleci.com/docs/api/v2/#operation/listPipelinesForProject: the newest first, by when they were created
    https://circleci.com/docs/api/v2/#operation/listWorkflowsByPipelineId and #operation/listWorkflowJobs
    Who wrote a commit, and whether it comes from a fork, is told where the webhook would tell it too.
    """
    return conversation(_recent(name, since, read), judge)


def _recent(name: str, since: datetime, read: Read) -> Asking[Recent]:
    gathering = Gathering(read)
    slug = "/".join(segments(name, "repository", least=3, most=3))
    begun = since - LONGEST_RUN
    pipelines = yield from _items(f"/project/{slug}/pipeline", lambda one: is_before(one, begun, "created_at"))
    gathering.cut = len(pipelines) >= MOST_LISTED
    for pipeline in pipelines:
        path = f"/pipeline/{_id(pipeline.identity('id'))}/workflow"
        for workflow in (yield from _items(path)):
            if not is_before(workflow, since, "stopped_at"):
                yield from _of_workflow(gathering, name, pipeline, workflow)
    return gathering.all()


def _of_workflow(gathering: Gathering, name: str, pipeline: Fields, workflow: Fields) -> Asking[None]:
    body = {
        "project": {"slug": name},
        "pipeline": _pipeline(pipeline),
        "workflow": {**workflow.plain(), "url": _page(name, pipeline, workflow)},
    }
    for job in (yield from _items(f"/workflow/{_id(workflow.identity('id'))}/job")):
        word = _JOB_WORDS.get(job.text("status") or "")
        if word is not None and job.text("type") in (None, "build"):
            own = {"number": job.raw("job_number"), "status": word}
            told = {**job.plain(), **own}
            gathering.take("job-completed", {**body, "job": told, "happened_at": job.raw("stopped_at")})
    if workflow.text("status") in _WORKFLOW_WORDS:
        gathering.take("workflow-completed", {**body, "happened_at": workflow.raw("stopped_at")})


def _pipeline(pipeline: Fields) -> dict[str, object]:
    return {**pipeline.plain(), "trigger": {"type": _trigger(pipeline)}}


def _trigger(pipeline: Fields) -> object:
    return pipeline.inner("trigger").raw("type")


def _page(name: str, pipeline: Fields, workflow: Fields) -> str | None:
    number = pipeline.integer("number")
    if number is None:
        return None
    return f"https://app.circleci.com/pipelines/{name}/{number}/workflows/{workflow.identity('id')}"


def _id(value: str) -> str:
    return segments(value, "id", most=1)[0]


def _items(path: str, until: Callable[[Fields], bool] = lambda _: False) -> Asking[list[Fields]]:
    """What is listed at `path`, page by page, down to the first that `until` wants no more of."""
    items: list[Fields] = []
    token: str | None = None
    while len(items) < MOST_LISTED:
        query = f"?{urlencode({'page-token': token})}" if token else ""
        said = answered((yield Send("GET", f"/api/v2{path}{query}")))
        some = said.each("items")
        kept = [one for one in some if not until(one)]
        items += kept
        token = said.text("next_page_token")
        if token is None or len(kept) < len(some):
            break
    return items
