"""One process of the embedded stack: what it runs, and when it is well."""

import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from deploy.stack.ports import Port

STOP_WAIT = 30  # seconds, for whatever says nothing else
# In the environment of every process: which stack it belongs to, and what it is.
STACK_MARKER = "CELERIAC_STACK"
PROCESS_MARKER = "CELERIAC_PROCESS"

Probe = Callable[[], str | None]


@dataclass(frozen=True)
class Process:
    """One supervised process. `probe` returns None when it is well, else one line saying why not.

    `environment` is set on top of what all processes share; `stop_wait` is in seconds.
    """

    name: str
    command: list[str]
    probe: Probe
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    account: str | None = None
    stop_signal: str = "TERM"
    stop_wait: int = STOP_WAIT
    ports: tuple[Port, ...] = ()


def page(url: str, credentials: str = "") -> Probe:
    """Return the probe of a process that is well when the address answers without an error.

    ``credentials`` is ``user:password``; of several, separated by commas, the first is used.
    """
    return partial(_fetch, url, credentials)


def _fetch(url: str, credentials: str) -> str | None:
    # No proxy: these are our own processes, whatever the caller's http_proxy says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    if credentials:
        encoded = b64encode(credentials.partition(",")[0].encode()).decode()
        opener.addheaders.append(("Authorization", f"Basic {encoded}"))
    try:
        with opener.open(url, timeout=5):
            return None
    except OSError as error:
        return f"{url}: {error}"
