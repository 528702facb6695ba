"""The healer: takes cases that are due, carries out what may be done, writes down what came of it, tells the shard.

    guard.healing --claim--> acts, intended --carry out--> the platform
                                   |                            |
                                   +<------- settled -----------+--> outcome entry --> the case's shard

Several may run at once: a case is one healer's for the length of a lease. Nobody polls for decisions: the transaction
that writes one says so (NOTIFY), and a clock is set for the next one that is due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import msgspec
import psycopg
import structlog

from connectors import metrics, postgres_holds
from connectors.postgres import connect_async
from connectors.postgres_ledger import Act, Case, Ledger
from flows.books import Books, pause_seconds
from flows.carrying import Carrier, Later, Settled
from flows.claiming import Claimer, Ruled, Taken, ended
from models.records.acted import Acted, ActedJob, ActResult
from models.records.calls import ClearCaches
from models.records.errors import Unavailable
from models.records.ledger import ActState, HoldRules, Why

_IDLE_SECONDS: Final = 1.0
_LEAST_WAIT_SECONDS: Final = 0.02  # what is due may be locked by another healer, for as long as it claims it
_TEND_SECONDS: Final = 1.0
_RETELL_SECONDS: Final = 5.0
_GRACE_SECONDS: Final = 8.0
_STOPPED_SECONDS: Final = 0.2

_log = structlog.get_logger()


class Healer:
    """Heals until told to stop. `stopped` is the kill switch; `tell` makes an outcome durable on its shard."""

    def __init__(
        self,
        books: Books,
        *,
        name: str,
        url: str,
        claimer: Callable[[Ledger], Claimer],
        carrier: Carrier,
        rules: HoldRules,
        stopped: Callable[[], bool],
        tell: Callable[[Acted], Awaitable[None]],
        concurrency: int,
    ) -> None:
        self._books = books
        self._name = name
        self._url = url
        self._make_claimer = claimer
        self._claimer: tuple[Ledger, Claimer] | None = None
        self._carrier = carrier
        self._rules = rules
        self._stopped = stopped
        self._tell = tell
        self._places = asyncio.Semaphore(concurrency)
        self._awake = asyncio.Event()
        self._untold = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Heal until `stop`; what is under way is brought to an end, if that takes no more than some seconds."""
        loops = [asyncio.create_task(loop()) for loop in (self._dispatch, self._listen, self._tend, self._tell_shards)]
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([*loops, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                raise RuntimeError("a part of the healer ended by itself") from _error_of(loops)
        finally:
            await _cancelled([*loops, stopping])
            if self._serving:
                await asyncio.wait(self._serving, timeout=_GRACE_SECONDS)
            await _cancelled(list(self._serving))

    async def _dispatch(self) -> None:
        """Claim what is due, and serve each case in a task of its own."""
        tried = 0
        while True:
            await self._places.acquire()
            served = False
            try:
                if self._stopped():
                    await asyncio.sleep(_STOPPED_SECONDS)
                    continue
                self._awake.clear()
                claimed, wait_seconds = await self._claim()
                tried = 0
                if isinstance(claimed, Taken):
                    self._serve_in_task(claimed)
                    served = True
                elif claimed is None:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._awake.wait(), wait_seconds)
            except Unavailable as error:
                tried += 1
                _log.warning("nothing can be claimed", why=str(error), tried=tried)
                await asyncio.sleep(pause_seconds(tried))
            finally:
                if not served:
                    self._places.release()

    async def _claim(self) -> tuple[Taken | Ruled | None, float]:
        """The next case, and where there is none how long to wait for one."""
        async with self._books.open() as ledger:
            if self._claimer is None or self._claimer[0] is not ledger:
                self._claimer = ledger, self._make_claimer(ledger)
            claimed = await self._claimer[1].claim()
            wait = max(_LEAST_WAIT_SECONDS, min(_IDLE_SECONDS, await ledger.due_in())) if claimed is None else 0.0
        if isinstance(claimed, Ruled):
            metrics.guard_healing_rulings_total(why=claimed.why).inc()
            _log.info("a case is not acted on now", case=claimed.case.case_id, why=claimed.why)
        return claimed, wait

    def _serve_in_task(self, taken: Taken) -> None:
        task = asyncio.create_task(self._serve(taken))
        self._serving.add(task)
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        self._places.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a case could not be served", exc_info=error)  # its lease runs out, and it is taken again

    async def _serve(self, taken: Taken) -> None:
        keeping = asyncio.create_task(self._keep(taken.case))
        try:
            await self._carried_out(taken)
        finally:
            await _cancelled([keeping])

    async def _keep(self, case: Case) -> None:
        """Have the case for as long as it takes: a platform may be slow, and what happened is found out in no hurry."""
        while True:
            await asyncio.sleep(self._books.lease_seconds / 3)
            await self._books.renew(case)

    async def _carried_out(self, taken: Taken) -> None:
        case = taken.case
        for i, act in enumerate(taken.acts):
            if i and not await self._books.renew(case):
                return
            came = await self._carrier.carry_out(case, act)
            match came:
                case None:
                    await self._books.insist(lambda ledger: ledger.let_go(case))
                    return
                case Later():
                    await self._put_off(case, came)
                    return
                case Settled():
                    await self._settled(case, act, came)
                    if isinstance(act.call, ClearCaches) and came.state is not ActState.DONE:
                        await self._dropped(case, taken.acts[i + 1 :], why_of(came))
                        break
        await self._books.insist(partial(_end, case))

    async def _put_off(self, case: Case, later: Later) -> None:
        async def write(ledger: Ledger) -> None:
            until = await ledger.now() + later.seconds
            await ledger.put_off(case, later.why, until, probe=case.probe)

        await self._books.insist(write)
        metrics.guard_healing_rulings_total(why=later.why).inc()
        _log.info("an act is put off", case=case.case_id, why=later.why, seconds=round(later.seconds, 1))

    async def _dropped(self, case: Case, acts: Sequence[Act], why: Why) -> None:
        for act in acts:
            await self._settled(case, act, Settled(ActState.DROPPED, why, None))

    async def _settled(self, case: Case, act: Act, settled: Settled) -> None:
        """Write down what came of an act, then tell its shard."""
        asked = await self._books.insist(
            lambda ledger: ledger.settle(case, act, settled.state, settled.reason, settled.result, healer=self._name),
            durable=True,
        )
        if asked is None:
            return
        metrics.guard_acts_total(platform=act.call.platform, action=act.call.name, state=settled.state).inc()
        _log.info(
            "an act is settled",
            act=act.act_id,
            case=case.case_id,
            repository=case.repository,
            action=act.action,
            state=settled.state,
            reason=settled.reason,
        )
        if settled.state is ActState.DONE:
            metrics.guard_decision_to_call_seconds().observe(max(0.0, asked - max(case.queued, case.due)))
        self._untold.set()

    async def _tell_shards(self) -> None:
        """Tell the shards of all that is settled and that they do not know; a mark keeps it from being there twice."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._untold.wait(), _RETELL_SECONDS)
            self._untold.clear()
            try:
                while await self._told_some():
                    pass
            except Unavailable as error:
                _log.warning("shards cannot be told of acts now", why=str(error))

    async def _told_some(self) -> bool:
        async with self._books.open() as ledger:
            rows = await ledger.untold()
        await asyncio.gather(*(self._tell(acted_of(row)) for row in rows))
        if rows:
            async with self._books.open() as ledger:
                await ledger.told([(row["act_id"], row["state"]) for row in rows])
        return bool(rows)

    async def _tend(self) -> None:
        """Look after proposals and incidents."""
        while True:
            try:
                async with self._books.open() as ledger:
                    tended = await postgres_holds.tend(ledger.connection, self._rules)
                    for case_id, decision_id in tended.expired:
                        await ledger.audit(f"healer {self._name}", "expire", case_id, {"decision": decision_id})
                    for case_id, incident_id in tended.probes:
                        await ledger.audit(f"healer {self._name}", "probe", case_id, {"incident": incident_id})
                    for incident_id, why, cases in tended.released:
                        detail = {"why": why, "cases": cases}
                        await ledger.audit(f"healer {self._name}", "release", incident_id, detail)
                        _log.info("an incident is over", incident=incident_id, why=why, released=cases)
                    waiting = await ledger.waiting()
                for state in ("waiting", "proposed", "taken"):
                    metrics.guard_healing_cases(state=state).set(waiting.get(state, 0))
                if tended.probes or tended.released:
                    self._awake.set()
            except Unavailable as error:
                _log.warning("holds cannot be looked after", why=str(error))
            await asyncio.sleep(_TEND_SECONDS)

    async def _listen(self) -> None:
        """Be told of new decisions."""
        tried = 0
        while True:
            try:
                connection = await connect_async(self._url, application_name=f"guard {self._name} listens")
                async with connection:
                    await connection.execute("LISTEN guard_healing")
                    tried = 0
                    self._awake.set()
                    async for _ in connection.notifies():
                        self._awake.set()
            except (Unavailable, psycopg.OperationalError):
                tried += 1
                await asyncio.sleep(pause_seconds(tried))


def why_of(settled: Settled) -> Why:
    """How a case ends whose act ended so."""
    if settled.state is ActState.DROPPED:
        return Why(settled.reason or Why.UNKNOWN)
    return Why.PLATFORM_REFUSED if settled.state is ActState.REFUSED else Why.UNKNOWN


def acted_of(row: dict[str, Any]) -> Acted:
    """What the shard is told of a row of the ledger."""
    jobs = tuple(ActedJob(*job) for job in row["jobs"])
    fields = {name: row[name] for name in row if name not in ("jobs", "state", "asked_ms")}
    result = ActResult(row["state"])
    return msgspec.convert(
        {**fields, "act_id": str(row["act_id"]), "result": result, "jobs": jobs, "asked_ms": row["asked_ms"]}, Acted
    )


async def _end(case: Case, ledger: Ledger) -> None:
    standing, why = ended(await ledger.acts(case.case_id))
    await ledger.end(case, standing, why)


async def _cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _error_of(tasks: Sequence[asyncio.Task[None]]) -> BaseException | None:
    return next((task.exception() for task in tasks if task.done() and not task.cancelled()), None)
