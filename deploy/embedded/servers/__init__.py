"""A private PostgreSQL and a private Redis, run from Python wheels without root or Docker.

The embedded runtime hands `command`, `environment` and `account` to its supervisor. Tests start a
throwaway server on a free port:

    from deploy.embedded.servers import PostgresServer, RedisServer, free_port, running

    with running(PostgresServer(directory, free_port(), "secret")) as server:
        connect(server.url)  # postgres://celeriac:secret@127.0.0.1:PORT/celeriac

    with running(RedisServer(directory, free_port(), "secret")) as server:
        connect(f"{server.url}/0")  # redis://:secret@127.0.0.1:PORT

`running` initialises the server, starts it as a child process, waits until it answers and stops it
at the end. `server.remove()` deletes its data, wherever it is. Both listen on 127.0.0.1 only.

PostgreSQL refuses to run as root, so for root it runs as `nobody`. When `nobody` cannot reach
`directory` (below /root, say) the data lives in /var/lib/celeriac and `directory` holds a link.
"""

from deploy.embedded.servers.postgres import PostgresServer
from deploy.embedded.servers.process import (
    HOST,
    Server,
    ServerError,
    free_port,
    running,
    wait_until_ready,
)
from deploy.embedded.servers.redis import RedisServer

__all__ = [
    "HOST",
    "PostgresServer",
    "RedisServer",
    "Server",
    "ServerError",
    "free_port",
    "running",
    "wait_until_ready",
]
