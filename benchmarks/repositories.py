"""What an event costs in a small and in a large installation: the same number of events, of ever more repositories.

    python -m benchmarks.repositories

The twelve shards of one process, with all detectors and the shipped rules, judge events that are decoded already.
Counted is the CPU time of the second half of them, when histories, profiles and runs are as many as they become;
`growth` is that of an event to that of the smallest installation.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from typing import Any, Final

from analytics.rulebook import compose
from analytics.shard import Shard
from benchmarks.snapshots import batches
from benchmarks.workload import Workload, cached
from models.records.entry import Encoding
from models.records.event import SHARDS

_BLOCK: Final = 240  # packed entries: two in a batch of each shard
_MICROSECONDS: Final = 1e6


def measure(workload: Workload) -> dict[str, Any]:
    """CPU microseconds an event in the second half of `workload`."""
    rulebook = compose()
    shards = [Shard(number, rulebook, lambda _: rulebook) for number in range(SHARDS)]
    spent, counted, seen = 0.0, 0, 0
    gc.collect()
    gc.freeze()
    for number, batch in batches(cached(workload, Encoding.PACKED), [0] * SHARDS, _BLOCK):
        began = time.process_time()
        shards[number].process(batch)
        if seen >= workload.events / 2:
            spent += time.process_time() - began
            counted += batch.events.num_rows
        seen += batch.events.num_rows
    gc.unfreeze()
    return {
        "repositories": workload.repositories,
        "events": workload.events,
        "cpu_us_per_event": round(spent / counted * _MICROSECONDS, 2),
    }


def main() -> None:
    """Measure, and print one JSON line for each number of repositories."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repositories", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--events", type=int, default=600_000)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    first = None
    for count in args.repositories:
        said = measure(Workload(args.events, seed=args.seed, repositories=count))
        first = first or said["cpu_us_per_event"]
        growth = round(said["cpu_us_per_event"] / first, 3)
        print(json.dumps({"case": "repositories", "subject": str(count), **said, "growth": growth}), flush=True)


if __name__ == "__main__":
    main()
