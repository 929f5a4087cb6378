"""How fast the capacity planner simulates: customers a second, and seconds for each candidate.

    python -m bench.capacity

One process, no servers. A candidate is simulated as in production, in full length.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, Final

from bench.project import ROOT

#: Workers and utilisation: a quiet queue, a busy one, one at the limit; few and many workers.
CASES: Final = ((1, 0.5), (10, 0.9), (50, 0.95), (300, 0.97), (1000, 0.98))


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="take the fastest of so many runs")
    rounds = parser.parse_args().rounds
    sys.path.insert(0, str(ROOT / "app"))
    from capacity import simulation  # noqa: PLC0415 - the path is set here

    times: dict[str, simulation.ServiceTimes] = {
        "constant": simulation.LogNormal.fitted(1.0, 1.0),
        "log-normal, p95 = 2.5 means": simulation.LogNormal.fitted(1.0, 2.5),
        "10,000 measured": simulation.Empirical(
            [0.5 + number / 10_000 for number in range(10_000)]
        ),
    }
    print(
        f"{'service times':<28} {'workers':>7} {'busy':>5} {'customers':>10} "
        f"{'a second':>10} {'seconds':>8}"
    )
    for name, service_times in times.items():
        for workers, utilisation in CASES:
            load = simulation.Load(workers * utilisation, service_times)
            section = simulation.section_length(load, workers)
            assert section is not None  # noqa: S101 - the cases are chosen so
            customers = section * simulation.STEPS
            seconds = min(_seconds(simulation, load, workers, section) for _ in range(rounds))
            print(
                f"{name:<28} {workers:>7} {utilisation:>5.0%} {customers:>10,} "
                f"{customers / seconds:>10,.0f} {seconds:>8.2f}"
            )


def _seconds(simulation: Any, load: Any, workers: int, section: int) -> float:
    """Return the seconds that one candidate takes."""
    begun = time.perf_counter()
    simulation.simulate(load, workers, seed=1, percentiles=[50, 95, 99], section=section)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
