"""How much may be done, as the settings say: for healers, and for what a backtest says that they would have done."""

from __future__ import annotations

from analytics.guards import Limits
from flows.settings import Settings
from models.records.ledger import HoldRules


def limits_of(settings: Settings) -> Limits:
    """What may be done at most."""
    given = settings.act.limits.model_dump()
    seconds = {f"{name}_seconds": given.pop(name).total_seconds() for name in ("cooldown", "crowd", "stale")}
    return Limits(**given, **seconds)


def rules_of(settings: Settings) -> HoldRules:
    """How incidents are tried out and let go."""
    act = settings.act
    return HoldRules(act.probe_every.total_seconds(), act.probes_to_pass, drain_seconds=act.drain.total_seconds())
