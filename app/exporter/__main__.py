"""Runs the exporter until SIGTERM or SIGINT: ``python -m config.launch exporter``."""

from __future__ import annotations

import signal
import sys
import threading

import structlog

from config import topology
from config.environment import EX_CONFIG
from exporter import broker, server, settings
from exporter.collector import ExporterCollector
from exporter.ledger import Ledger
from exporter.scan import Scanner
from telemetry import logs

logger = structlog.get_logger("exporter")


def main() -> int:
    """Serve; returns the exit status."""
    try:
        own = settings.read()
    except ValueError as error:  # FaultyEnvironmentError, or an unreadable NAME_FILE
        print(f"celeriac: {error}", file=sys.stderr)
        return EX_CONFIG
    logs.configure(own.logging)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())

    scanner = Scanner(
        broker.client(own.broker_url), topology.VISIBILITY_TIMEOUT_SECONDS, own.scan_seconds
    )
    collector = ExporterCollector(
        broker.client(own.broker_url),
        Ledger(own.database_url),
        scanner,
        version=own.version,
        revision=own.revision,
    )
    try:
        http = server.serve(
            collector,
            is_alive=lambda: not scanner.is_stuck,
            address=own.address,
            port=own.port,
        )
    except OSError as error:
        logger.error("port_is_taken", port=own.port, error=str(error))  # noqa: TRY400 - no more to say
        return 1
    scanner.start()
    threading.Thread(target=http.serve_forever, name="http", daemon=True).start()
    logger.info("exporter_serves", address=own.address, port=own.port)
    stopped.wait()
    scanner.stop()
    http.shutdown()
    http.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
