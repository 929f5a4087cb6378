"""The stories, a module for each area."""

from tests.rules.stories import (
    broker,
    database,
    ledger,
    monitoring,
    queues,
    schedule,
    tasks,
    web,
    workers,
)

ALL = [
    story
    for module in (queues, tasks, workers, ledger, schedule, broker, database, web, monitoring)
    for story in module.STORIES
]
