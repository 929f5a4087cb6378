"""Probes for container health checks: standard library only, so that one costs some 20 ms.

    python app/telemetry/probes.py live         worker or beat: its loop turns
    python app/telemetry/probes.py ready        worker: and it consumes from the broker
    python app/telemetry/probes.py http URL     a server answers with a status below 400
    python app/telemetry/probes.py http URL VARIABLE    the same, with the first ``user:password``
                                                        of an environment variable

Exit status 0 means yes; otherwise 1 and one line on standard error. ``live`` forgives a broker
that is down (a restart would not help), but not a loop that stands still.
"""

from __future__ import annotations

import json
import os
import sys
import time

#: Seconds without a note after which a loop counts as stuck. Notes come every 5 s, during an
#: outage of the broker at most some 35 s apart.
MAXIMUM_AGE_SECONDS = 60.0
HTTP_TIMEOUT_SECONDS = 4.0


def heartbeat_fault(path: str, *, must_consume: bool) -> str | None:
    """Return what is wrong with the process that writes the heartbeat file, or None."""
    try:
        with open(path, encoding="utf-8") as file:
            note = json.load(file)
        age, state = time.time() - float(note["at"]), note["state"]
    except FileNotFoundError:
        return f"{path} does not exist: the process has not started its loop, or was stopped"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{path} cannot be read: {error!r}"
    if age > MAXIMUM_AGE_SECONDS:
        return f"the last note is {age:.0f} s old: the loop is stuck"
    if must_consume and state != "consuming":
        return f"the worker is {state}, not consuming"
    return None


def http_fault(url: str, credentials: str = "") -> str | None:
    """Return why the server is not well, or None when it answered with a status below 400.

    Args:
        url: What is asked for.
        credentials: ``user:password`` for a server that wants them; of several only the first.
    """
    # http.client costs 25 ms to import, which the other probes need not pay.
    from base64 import b64encode  # noqa: PLC0415
    from http.client import HTTPConnection, HTTPException  # noqa: PLC0415
    from urllib.parse import urlsplit  # noqa: PLC0415

    parts = urlsplit(url)
    headers = {}
    if credentials:
        encoded = b64encode(credentials.partition(",")[0].encode()).decode()
        headers["Authorization"] = f"Basic {encoded}"
    connection = HTTPConnection(
        parts.hostname or "127.0.0.1", parts.port, timeout=HTTP_TIMEOUT_SECONDS
    )
    try:
        connection.request("GET", parts.path or "/", headers=headers)
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return f"{url}: {error!r}"
    finally:
        connection.close()
    return None if status < 400 else f"{url} answered {status}"


def main(arguments: list[str]) -> int:
    """Run one probe; returns the exit status."""
    path = os.environ.get("HEARTBEAT_FILE", "/tmp/celeriac-heartbeat")  # noqa: S108
    if arguments == ["live"]:
        fault = heartbeat_fault(path, must_consume=False)
    elif arguments == ["ready"]:
        fault = heartbeat_fault(path, must_consume=True)
    elif len(arguments) in (2, 3) and arguments[0] == "http":
        # Named, not given: arguments can be read by every process.
        fault = http_fault(arguments[1], *(os.environ.get(name, "") for name in arguments[2:]))
    else:
        fault = "usage: probes.py live | ready | http URL [VARIABLE]"
    if fault is not None:
        print(fault, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
