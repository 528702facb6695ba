"""What may be done now: pure functions over what the ledger knows, the same live and in a backtest.

The policy says what is right to do about a failure; the guards say whether it may be done at this moment, by us. They
are asked in one order, from what will never change to what changes by itself, and the first that objects is the reason:

    mode          observe: never; suggest: when a person has said yes
    stale         what failed so long ago nobody waits for
    platform cap  GitHub takes no more than 50 reruns of a run
    not before    the decision names a time
    proposed      suggest, and nobody has said yes
    incident      the same cause strikes everywhere: only a probe goes on
    busy          one thing at a time is done to a run; asked once more when the budgets are taken
    cooldown      the same job was run again by us a moment ago
    retry ratio   reruns are at most a tenth of all that runs, beyond a few: the SRE book's budget for clients

    https://sre.google/sre-book/handling-overload/ (per-client retry budget)

Budgets come last and are taken, not looked at: counter rows, in one order, each by a conditional update, so that no
number of healers can overdraw them. A run's and a commit's have no second chance by the hour; what starts them anew is
a new commit, or a run that a person started: a chain of reruns is charged to the run that began it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from analytics.actions.action import found
from analytics.policy.rules import Mode
from models.records.calls import Call, Cancel, ClearCaches, Rerun, RerunFailed, RerunJob, RunState
from models.records.event import FAILING, OPEN, Outcome
from models.records.ledger import Charge, Crowd, Earlier, Why

RERUNS: Final = (Rerun, RerunFailed, RerunJob)
COSTLY: Final = (*RERUNS, Cancel, ClearCaches)
"""What changes what runs; the rest only says something."""

HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * HOUR_MS
_BUSY_SECONDS: Final = 5.0
_RATIO_SECONDS: Final = 60.0
_CROWD_FACTOR: Final = 4.0
_CROWD_OVER_FACTOR: Final = 6.0
_SPREAD_SECONDS: Final = 60.0
"""What waits for a new hour comes back within so many seconds of it, not all at once."""


class Limits(NamedTuple):
    """How much may be done. Counts are of acts; hours are those of the clock, UTC."""

    job_per_hour: int = 2
    run: int = 2  # of one run and all that reruns made of it
    commit: int = 6
    repository_per_hour: int = 10
    fleet_per_hour: int = 100
    repository_minutes_per_hour: float = 240.0
    fleet_minutes_per_hour: float = 2400.0
    notes_per_hour: int = 20  # comments, issues and notifications, of one repository
    most_rerun_share: float = 0.1
    least_reruns_per_hour: int = 20  # fewer are no storm, whatever their share
    cooldown_seconds: float = 30.0
    crowd_repositories: int = 5  # with the same cause within `crowd_seconds`: then it is taken for an outage
    crowd_seconds: float = 300.0
    stale_seconds: float = 6 * 3600.0


class Facts(NamedTuple):
    """What is known of a case that is due. Times are Unix seconds by the ledger's clock."""

    now: float
    failed: float  # event time of the newest event behind the decision
    mode: Mode  # of the decision, and of the policy as it is now: the stricter
    approved: bool
    reruns: bool  # it would run something again
    attempt: int
    most_reruns: int | None  # that the platform takes of one run
    held: bool  # an incident of its cause goes on, and it is not its probe
    busy: bool  # another act on the same run is under way
    last_same: float | None  # when one of its jobs was last run again by us
    fleet_reruns: int  # within the last hour
    fleet_runs: int
    not_before: float | None = None  # event time too: what the decision says of when


class Go(NamedTuple):
    """Nothing objects."""


class Hold(NamedTuple):
    """Not now. `until` is when to look again, Unix seconds; None: when somebody says so."""

    why: Why
    until: float | None


class Refuse(NamedTuple):
    """Not at all."""

    why: Why


Ruling = Go | Hold | Refuse


def rule(facts: Facts, limits: Limits) -> Ruling:
    """Whether a case may be acted on now, as far as it does not depend on budgets."""
    never = _never(facts, limits)
    return Refuse(never) if never is not None else _not_now(facts, limits) or Go()


def crowd_over_seconds(limits: Limits) -> float:
    """For so long after a crowd was said to be over what fails by its cause is its last: nothing new is held for it.

    What began before its end fails after it. Should it not be over after all, the reruns tell (HoldRules.failures).
    """
    return _CROWD_OVER_FACTOR * limits.crowd_seconds


def crowded(crowd: Crowd, limits: Limits) -> bool:
    """Whether so many repositories have one cause at once that it is no coincidence.

    The fleet (analytics/fleet.py) finds that out with more care and says what explains it, some minutes later; until
    then reruns that can only fail would be spent, and make an outage worse.
    """
    return crowd.repositories >= max(limits.crowd_repositories, _CROWD_FACTOR * crowd.usual)


def _never(facts: Facts, limits: Limits) -> Why | None:
    if facts.mode == "observe":
        return Why.MODE
    if facts.now - facts.failed > limits.stale_seconds:
        return Why.STALE
    if facts.reruns and facts.most_reruns is not None and facts.attempt > facts.most_reruns:
        return Why.PLATFORM_CAP
    return None


def _not_now(facts: Facts, limits: Limits) -> Hold | None:
    if facts.not_before is not None and facts.now < facts.not_before:
        return Hold(Why.NOT_BEFORE, facts.not_before)
    if facts.mode == "suggest" and not facts.approved:
        return Hold(Why.PROPOSED, None)
    if facts.reruns and facts.held:
        return Hold(Why.INCIDENT, None)
    if facts.busy:
        return busy(facts.now)
    if facts.last_same is not None and facts.last_same + limits.cooldown_seconds > facts.now:
        return Hold(Why.COOLDOWN, facts.last_same + limits.cooldown_seconds)
    if facts.reruns and _too_many(facts, limits):
        return Hold(Why.RETRY_RATIO, facts.now + _RATIO_SECONDS)
    return None


def busy(now: float) -> Hold:
    """What becomes of a case where something else is being done to its run."""
    return Hold(Why.TARGET_BUSY, now + _BUSY_SECONDS)


def _too_many(facts: Facts, limits: Limits) -> bool:
    return facts.fleet_reruns >= max(limits.least_reruns_per_hour, limits.most_rerun_share * facts.fleet_runs)


class Doing(NamedTuple):
    """What is about to be done, as far as budgets care. `jobs` are workflow and name of the jobs it runs again."""

    instance: str
    repository: str
    commit_sha: str | None
    origin: str  # the run that began the chain
    jobs: tuple[tuple[str, str], ...]
    minutes: float
    calls: tuple[Call, ...]
    action: str | None = None
    about: tuple[tuple[str, str], ...] = ()  # workflow and name of the jobs that it is about, whatever is done to them


def charges(doing: Doing, now: float) -> list[Charge]:
    """What `doing` takes, in the order in which everybody takes it: the narrow first, the row that all share last."""
    hour_ms = int(now * 1000) // HOUR_MS * HOUR_MS
    place = f"{doing.instance}\t{doing.repository}"
    costly = sum(isinstance(call, COSTLY) for call in doing.calls)
    taken = list(_own(doing, place, now))
    if len(doing.calls) > costly:
        taken.append(Charge("repository", f"notes\t{place}", hour_ms, len(doing.calls) - costly, 0.0))
    if costly:
        if any(isinstance(call, RERUNS) for call in doing.calls):
            share = doing.minutes / max(len(doing.jobs), 1)
            taken += [Charge("job", f"{place}\t{workflow}\t{job}", hour_ms, 1, share) for workflow, job in doing.jobs]
            taken.append(Charge("run", f"{place}\t{doing.origin}", 0, 1, doing.minutes))
            if doing.commit_sha:
                taken.append(Charge("commit", f"{place}\t{doing.commit_sha}", 0, 1, doing.minutes))
        taken.append(Charge("repository", place, hour_ms, costly, doing.minutes))
        taken.append(Charge("fleet", "", hour_ms, costly, doing.minutes))
    return sorted(set(taken), key=lambda charge: (_ORDER[charge.scope], charge.key))


def _own(doing: Doing, place: str, now: float) -> Iterator[Charge]:
    """What the action itself may be done, for each job that it is about."""
    action = found().get(doing.action or "")
    day_ms = int(now * 1000) // _DAY_MS * _DAY_MS
    if action is None:
        return
    for workflow, job in doing.about or (("", ""),):
        key = f"action\t{action.name}\t{place}\t{workflow}\t{job}"
        if action.most_per_day is not None:
            yield Charge("job", key, day_ms, 1, 0.0)
        if action.most_per_run is not None:
            yield Charge("run", f"{key}\t{doing.origin}", 0, 1, 0.0)


_ORDER: Final[dict[str, int]] = {"job": 0, "run": 1, "commit": 2, "repository": 3, "fleet": 4}


def most(charge: Charge, limits: Limits) -> tuple[int, float]:
    """How many acts and minutes the budget holds that `charge` is taken of."""
    if charge.key.startswith("action\t"):
        action = found()[charge.key.split("\t", 2)[1]]
        return (action.most_per_day if charge.scope == "job" else action.most_per_run) or 0, float("inf")
    if charge.key.startswith("notes\t"):
        return limits.notes_per_hour, float("inf")
    match charge.scope:
        case "job":
            return limits.job_per_hour, float("inf")
        case "run":
            return limits.run, float("inf")
        case "commit":
            return limits.commit, float("inf")
        case "repository":
            return limits.repository_per_hour, limits.repository_minutes_per_hour
        case "fleet":
            return limits.fleet_per_hour, limits.fleet_minutes_per_hour


def fits(charge: Charge, spent: tuple[int, float], limits: Limits) -> bool:
    """Whether `charge` still goes into a budget of which `spent` (acts and minutes) is gone."""
    acts, minutes = most(charge, limits)
    return spent[0] + charge.acts <= acts and spent[1] + charge.minutes <= minutes


def short(charge: Charge, now: float, drawn: float) -> Ruling:
    """What becomes of a case where the budget of `charge` is spent. `drawn` is anything from 0 to 1, drawn by lot."""
    refused = {"job": Why.JOB_BUDGET, "run": Why.RUN_BUDGET, "commit": Why.COMMIT_BUDGET}
    if charge.scope in refused:
        return Refuse(refused[charge.scope])
    anew = charge.period_ms / 1000 + HOUR_MS / 1000 + drawn * _SPREAD_SECONDS
    why = Why.REPOSITORY_BUDGET if charge.scope == "repository" else Why.FLEET_BUDGET
    return Hold(why, max(anew, now))


def origin_of(
    *, pipeline_id: str, workflow_id: str | None, attempt: int, job_ids: Iterable[str], earlier: Sequence[Earlier]
) -> str:
    """Which run began the chain of reruns of which this one is the latest: itself, where none of ours made it.

    GitHub keeps the run and raises the attempt, GitLab keeps the pipeline and makes a new job, CircleCI makes a new
    workflow in the same pipeline. A build of Jenkins has a number of its own that nobody knows when it is asked for:
    each begins a chain, and the commit's budget bounds them.
    """
    ids = set(job_ids)
    for act in earlier[::-1]:
        made = act.made
        ours = made.get("attempt") == attempt or made.get("workflow_id", "") == workflow_id or made.get("job_id") in ids
        if act.pipeline_id == pipeline_id and ours:
            return act.origin
    return f"{pipeline_id} {workflow_id or ''} {attempt} {min(ids, default='')}"


def moved_on(call: Call, state: RunState) -> Why | None:
    """Why `call` makes no sense any more as its run stands now; None where it still does."""
    running = state.outcome in OPEN
    if isinstance(call, Cancel):
        return None if running else Why.NOT_FAILED
    if not isinstance(call, RERUNS):
        return None
    if state.successor is not None:
        return Why.ALREADY_RUN
    if state.overtaken:
        return Why.OVERTAKEN
    if running:
        return Why.RUN_IN_PROGRESS
    return None if state.outcome in _FAILED else Why.NOT_FAILED


_FAILED: Final = FAILING | {Outcome.UNSTABLE, Outcome.UNKNOWN}


def told_by_reading(call: Call) -> bool:
    """Whether the run shows that `call` was carried out."""
    return isinstance(call, (*RERUNS, Cancel))


def happened(call: Call, before: RunState | None, after: RunState) -> bool:
    """Whether `call` was carried out between two looks at its run, or somebody did the same."""
    if isinstance(call, Cancel):
        return after.outcome is Outcome.CANCELLED
    return isinstance(call, RERUNS) and after.successor != (before.successor if before is not None else None)
