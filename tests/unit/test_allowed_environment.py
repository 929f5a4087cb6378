"""A process of the embedded runtime that gets named variables only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from deploy.embedded import allowed_environment
from deploy.embedded.processes import Processes
from deploy.stack import environment
from tests.support.roles import ROOT


def test_a_program_sees_what_is_named_and_nothing_else() -> None:
    program = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
    done = subprocess.run(
        allowed_environment.command(["KEPT", "RENAMED=SOURCE", "ABSENT"], program),
        env={"PATH": "/usr/bin:/bin", "KEPT": "1", "SOURCE": "2", "SECRET": "3"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(done.stdout)

    assert seen.pop("LC_CTYPE", "C.UTF-8") == "C.UTF-8"  # Python sets it for itself
    assert seen == {"PATH": "/usr/bin:/bin", "KEPT": "1", "RENAMED": "2"}


def test_the_embedded_exporter_has_no_secret_of_the_application(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text((ROOT / ".env.example").read_text(encoding="utf-8"))
    environment.prepare(tmp_path)
    values = environment.load(tmp_path, {"PATH": "/usr/bin:/bin"})
    processes = Processes(ROOT, tmp_path, values)
    [exporter] = [one for one in processes.roles() if one.name == "celery-exporter"]
    end = exporter.command.index("--")
    given = allowed_environment.allowed(
        exporter.command[3:end], {**values, **processes.shared_environment}
    )

    assert set(given) >= {"BROKER_URL", "DATABASE_URL", "EXPORTER_PORT", "BIND_HOST"}
    secrets = {
        name: value
        for name, value in values.items()
        if name in environment.generation_rules((ROOT / ".env.example").read_text(encoding="utf-8"))
    }
    assert len(secrets) >= 8
    text = " ".join([*given.values(), *exporter.environment.values(), *exporter.command])
    found = {name for name, value in secrets.items() if value in text}
    assert found == {"CELERY_EXPORTER_PASSWORD"}
