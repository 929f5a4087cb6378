"""Command line of the load generator: `python3 -m deploy.load --rate 5 --duration 120`.

It submits jobs to the stack that `make up` has started, shows how they fare, and ends with a table.
Everything is bounded: the rate, the duration, the requests in flight. Ctrl-C ends it at once.
"""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from deploy.load.client import Client
from deploy.load.display import Display, summary_table
from deploy.load.generator import Generator
from deploy.load.plan import LONGEST, MOST_A_SECOND, Burst, Plan, mix_from_text
from deploy.load.workloads import Workloads
from deploy.stack import environment
from deploy.stack.errors import StackError, reader_left

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_MIX: Final = "newsletter=6,images=1,capacity=1"
#: Requests of one caller in a minute, where `.env` does not say (app/config/settings.py).
DEFAULT_RATE_LIMIT: Final = 600
#: Seconds to wait for the last jobs, when all are submitted.
PATIENCE: Final = 30.0


def main(arguments: Sequence[str]) -> int:
    """Run; return the exit status: 0, 1 when something failed, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    # Also TERM, and INT where a shell that started this in the background has it ignored: whoever
    # asks for an end must not get an hour of load.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        return _run(options, environment.load(ROOT))
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return reader_left()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m deploy.load", description=__doc__)
    option = parser.add_argument
    option("--rate", type=float, default=2.0, help=f"jobs a second, up to {MOST_A_SECOND:.0f} (2)")
    option("--duration", type=float, default=60.0, help=f"seconds, up to {LONGEST:.0f} (60)")
    option("--mix", default=DEFAULT_MIX, help=f"weight of each kind of job ({DEFAULT_MIX})")
    option("--recipients", type=int, default=20, help="recipients of one newsletter (20)")
    option("--failures", type=float, default=0.0, help="share of mails that are refused, 0 to 1")
    option("--burst", help="JOBS/SECONDS: so many at once every so many seconds, e.g. 50/30")
    option(
        "--patience", type=float, default=PATIENCE, help="seconds to wait for the last jobs (30)"
    )
    return parser


def _run(options: argparse.Namespace, values: Mapping[str, str]) -> int:
    plan = Plan(
        rate=options.rate,
        duration=options.duration,
        mix=mix_from_text(options.mix),
        failures=options.failures,
        recipients=options.recipients,
        burst=Burst.from_text(options.burst) if options.burst else None,
    )
    client = Client(values)
    client.check()
    display = Display(sys.stdout, plan.duration)
    if note := rate_limit_note(plan, values):
        display.say(note)
    workloads = Workloads(ROOT, plan.recipients, plan.failures)
    generator = Generator(plan, client, workloads, display)
    try:
        generator.run()
        elapsed = generator.elapsed
        generator.wait_for_ends(options.patience)
    except KeyboardInterrupt:
        display.say("interrupted: no more is submitted")
        display.say(summary_table(generator.elapsed, generator.tally.snapshot()))
        raise
    counts = generator.tally.snapshot()
    display.say(summary_table(elapsed, counts))
    return 1 if counts.failed or counts.errors or not counts.accepted else 0


def rate_limit_note(plan: Plan, values: Mapping[str, str]) -> str | None:
    """Return what to tell people whose plan meets the API's limit for one caller, or None."""
    text = values.get("API_RATE_LIMIT_PER_MINUTE", "")
    limit = int(text) if text.isascii() and text.isdigit() else DEFAULT_RATE_LIMIT
    if limit == 0 or plan.requests_a_minute() <= limit:
        return None
    return (
        f"The plan has {plan.requests_a_minute():.0f} requests a minute, and the API takes {limit} "
        "of one caller: the rest is held back. API_RATE_LIMIT_PER_MINUTE=0 in .env lifts the limit."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
