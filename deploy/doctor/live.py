"""Checks of the running stack: what its services say, and the facts of `manage doctor_facts`.

Each takes measured facts and returns findings, so that a test can plant a fault.
"""

from collections.abc import Collection, Mapping
from typing import Any

from deploy.doctor.findings import Finding, judge, skip
from deploy.stack.runtime import ServiceStatus

#: Seconds that clocks may differ. Leases (30 s) and time-outs (5 s) leave room for this much.
TOLERATED_SKEW_SECONDS = 2.0

CLOCKS = {
    "database": "PostgreSQL's clock differs from the web role's",
    "broker": "Redis's clock differs from the web role's",
    "role": "the web role's clock differs from this machine's",
}
#: Without one of these no work is done (whatever else is left out on purpose, as Grafana may be).
NEEDED_SERVICES = ("web", "worker", "worker-bulk", "relay", "beat", "postgres", "redis")

Facts = Mapping[str, Any]


def services(found: Collection[ServiceStatus]) -> list[Finding]:
    """Every service must run and be healthy; `migrate` must have ended well."""
    present = {status.service for status in found}
    faults = [
        f"{name} is not there; start it with make up"
        for name in NEEDED_SERVICES
        if name not in present
    ]
    for status in found:
        ended_well = status.service == "migrate" and status.state == "exited with status 0"
        if not (ended_well or (status.state == "running" and status.health in {"healthy", "-"})):
            faults.append(
                f"{status.service} is {status.state} ({status.health}); "
                f"see make logs ARGS={status.service}"
            )
    return judge("every service runs and is healthy", faults)


def answers(facts: Facts) -> list[Finding]:
    """PostgreSQL and Redis must answer the roles."""
    return judge(
        "database and broker answer",
        [
            f"{name}: {facts[name]['fault']}; see make ps and {variable}"
            for name, variable in (("database", "DATABASE_URL"), ("broker", "BROKER_URL"))
            if "fault" in facts[name]
        ],
    )


def broker(facts: Facts) -> list[Finding]:
    """The broker in use must keep its queues, whatever docker-compose.yml says of another one."""
    check = "the broker keeps its queues"
    policy, appendonly = facts.get("maxmemory_policy"), facts.get("appendonly")
    if policy is None or appendonly is None:
        return skip(check, "the server does not tell its settings; ask for noeviction and AOF")
    faults = []
    if policy != "noeviction":
        faults.append(
            f"maxmemory-policy is {policy}: messages vanish when the memory is full; set noeviction"
        )
    if appendonly != "yes":
        faults.append("appendonly is off: a restart empties the queues; set appendonly yes")
    return judge(check, faults)


def clocks(facts: Facts) -> list[Finding]:
    """Leases and due times are PostgreSQL's, the age of a message is the worker's."""
    check = "clocks agree"
    skews = {name: facts[name].get("clock_skew_seconds") for name in CLOCKS}
    faults = [
        f"{CLOCKS[name]} by {abs(skew):g} s ({'ahead' if skew > 0 else 'behind'}); start NTP"
        for name, skew in skews.items()
        if skew is not None and abs(skew) > TOLERATED_SKEW_SECONDS
    ]
    silent = [name for name, skew in skews.items() if skew is None]
    if silent and not faults:
        return skip(check, f"no answer from the {' and the '.join(silent)}")
    return judge(check, faults)


def migrations(facts: Facts) -> list[Finding]:
    """The tables must be those of the code."""
    waiting = facts["migrations_waiting"]
    return judge(
        "the database has the tables of this code",
        [f"{len(waiting)} migrations wait ({', '.join(waiting[:3])} ...); run the migrate role"]
        if waiting
        else [],
    )


def beat(facts: Facts) -> list[Finding]:
    """One beat must lead; a lock cannot have two holders."""
    return judge(
        "one beat leads",
        []
        if facts["beat_leaders"] == 1
        else ["no beat leads, so nothing periodic runs; see make logs ARGS=beat"],
    )


def relay(facts: Facts) -> list[Finding]:
    """What is due must be picked up."""
    overdue = facts["overdue"]
    return judge(
        "deliveries move",
        [f"{overdue} deliveries are overdue: no relay looks at them; see make logs ARGS=relay"]
        if overdue
        else [],
    )


def dead_letters(facts: Facts) -> list[Finding]:
    """Dead letters wait for a person."""
    dead = facts["dead_letters"]
    return judge(
        "no dead letters",
        [f"{dead} deliveries have failed for good; replay or discard them (admin, Deliveries)"]
        if dead
        else [],
    )


def signatures(facts: Facts) -> list[Finding]:
    """Refused messages mean that keys differ between roles, or that somebody forges."""
    refused = facts["refused_lately"]
    fault = (
        f"{refused} were refused, the last one because: {facts['refused_why']}. If a key is "
        "unknown, give every role the same TASK_SIGNING_KEYS; else look at them (admin, "
        "Quarantined messages)"
    )
    return judge("no message was refused in the last hour", [fault] if refused else [])


def all_of(facts: Facts) -> list[Finding]:
    """Make every check that the facts allow."""
    findings = answers(facts)
    found_database, found_broker = facts["database"], facts["broker"]
    if "fault" not in found_broker:
        findings += broker(found_broker)
    findings += clocks(facts)
    if "fault" in found_database:
        return findings
    findings += migrations(found_database)
    if found_database["migrations_waiting"]:
        return [*findings, *skip("what the ledger says", "its tables have to be migrated first")]
    for check in (beat, relay, dead_letters, signatures):
        findings += check(found_database)
    return findings
