"""The exporter's settings: a few variables, two of them secret."""

from __future__ import annotations

from dataclasses import dataclass

from config import environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the exporter needs to know.

    Attributes:
        broker_url: Redis, with an account that may read.
        database_url: PostgreSQL, with an account that may read.
        address: Where to listen; all interfaces inside a container.
        port: The port there.
        scan_seconds: Seconds between two scans of what workers hold.
        version: What runs, for ``celeriac_build_info``.
        revision: Its commit.
        logging: Options of ``telemetry.logs.configure``.
    """

    broker_url: str
    database_url: str
    address: str
    port: int
    scan_seconds: int
    version: str
    revision: str
    logging: dict[str, str]


def read() -> Settings:
    """Read the environment.

    Raises:
        FaultyEnvironmentError: One line for every variable that is missing or malformed.
    """
    env = environment.reader()
    settings = Settings(
        broker_url=env.redis_url("BROKER_URL"),
        database_url=env.postgres_url("DATABASE_URL"),
        address=env.str("BIND_HOST", "0.0.0.0"),  # noqa: S104
        port=env.int("EXPORTER_PORT", 9808, validate=environment.between(1, 65_535)),
        scan_seconds=env.int("EXPORTER_SCAN_SECONDS", 60, validate=environment.between(1, 3600)),
        version=env.str("CELERIAC_VERSION", "0.1.0"),
        revision=env.str("CELERIAC_REVISION", "unknown"),
        logging={
            "level": env.str(
                "LOG_LEVEL", "INFO", validate=environment.one_of(*environment.LOG_LEVELS)
            ),
            "format": env.str(
                "LOG_FORMAT", "json", validate=environment.one_of(*environment.LOG_FORMATS)
            ),
            "service": env.str("SERVICE_NAME", "exporter"),
        },
    )
    environment.refuse_faults(env)
    return settings
