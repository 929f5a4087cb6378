"""Facts that stand in several files, compared."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.roles import ROOT


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


COMPOSE: dict[str, Any] = yaml.safe_load(read("docker-compose.yml"))
IMAGES: dict[str, Any] = yaml.safe_load(read("deploy/docker/images.yaml"))["services"]
#: Read by roles, but set by the entry point, by Compose, or by servers that are not Django.
READ_ELSEWHERE = {
    "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "DJANGO_SUPERUSER_USERNAME",
    "DJANGO_SUPERUSER_PASSWORD", "FLOWER_BASIC_AUTH", "WORKER_CONCURRENCY", "ALERT_TIME_SCALE",
    "WEB_METRICS_DIRECTORY", "COMPOSE_PROFILES",
}  # fmt: skip


def settings_variables() -> set[str]:
    text = read("app/config/settings.py") + read("app/exporter/settings.py")
    return set(re.findall(r"env\.\w+\(\s*\"([A-Z_]+)\"", text))


def example_variables() -> set[str]:
    return set(re.findall(r"^#?([A-Z][A-Z_]+)=", read(".env.example"), re.MULTILINE))


def compose_variables() -> set[str]:
    text = read("docker-compose.yml")
    passed_on = re.findall(r"^ +([A-Z_]+):$", text, re.MULTILINE)
    return {*passed_on, *re.findall(r"(?<!\$)\$\{([A-Z_]+)", text)}


def test_every_setting_is_in_the_example_and_nothing_else_is() -> None:
    example, read_by_somebody = example_variables(), settings_variables() | compose_variables()
    embedded = set(re.findall(r"\"([A-Z_]+_PORT)\"", read("deploy/stack/ports.py")))
    images = set(re.findall(r"\$\{([A-Z_]+)", read("deploy/docker/images.yaml")))

    assert settings_variables() - example == set()
    # The first two follow from IMAGES=airgap, CREATED is stamped by the build.
    derived = {"IMAGE_SUFFIX", "GRAFANA_LINK", "CELERIAC_CREATED"}
    assert compose_variables() - example == derived
    assert example - read_by_somebody - READ_ELSEWHERE - embedded - images == set()


def test_compose_passes_every_setting_on() -> None:
    # Set by the entry point and the image, or with no other useful value in a container.
    fixed = {
        "SERVICE_NAME", "HEARTBEAT_FILE", "STATIC_ROOT", "EXPORTER_PORT", "METRICS_PORT",
        "BIND_HOST",
    }  # fmt: skip
    environments = [set(service.get("environment", {})) for service in COMPOSE["services"].values()]
    image = {"CELERIAC_VERSION", "CELERIAC_REVISION"}

    assert settings_variables() - set().union(*environments) == fixed | image


def test_every_variable_the_example_names_is_explained() -> None:
    paragraphs = read(".env.example").split("\n")
    for number, line in enumerate(paragraphs):
        if re.match(r"#?[A-Z][A-Z_]+=", line):
            above = [text for text in paragraphs[:number] if text]
            assert any(text.startswith("# ") for text in above[-12:]), line


@pytest.mark.parametrize("path", ["docker-compose.yml", "deploy/docker/images.yaml"])
def test_no_secret_has_a_default(path: str) -> None:
    for name, default in re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", read(path)):
        if re.search(r"SECRET|PASSWORD|TOKEN|AUTH|KEY", name):
            assert default == "", f"{name} has a default in {path}"
    assert not re.search(
        r"^[A-Z_]*(SECRET|PASSWORD|TOKEN|AUTH)[A-Z_]*=\S", read(".env.example"), re.MULTILINE
    )


def test_compose_refuses_to_start_without_secrets() -> None:
    required = set(re.findall(r"\$\{([A-Z_]+):\?", read("docker-compose.yml")))
    assert required == {
        "DJANGO_SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_BASIC_AUTH",
        "GRAFANA_ADMIN_PASSWORD", "TASK_SIGNING_KEYS", "CELERY_EXPORTER_PASSWORD",
        "SERVER_EXPORTERS_PASSWORD", "UPSTREAM_EXPORTER_PASSWORD",
    }  # fmt: skip


def test_images_are_named_once() -> None:
    dockerfile = read("deploy/docker/Dockerfile")
    python = IMAGES["python"]["image"].removesuffix("${IMAGE_SUFFIX:-}")

    assert f"ARG PYTHON_IMAGE={python}\n" in dockerfile
    argument = COMPOSE["services"]["migrate"]["build"]["args"]["PYTHON_IMAGE"]
    assert argument == IMAGES["python"]["image"]
    for name, service in COMPOSE["services"].items():
        if "extends" in service:
            assert service["extends"]["service"] == name
            assert "image" not in service
        else:
            assert service["image"].startswith("celeriac:")


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_service_is_confined_and_watched(name: str) -> None:
    service = COMPOSE["services"][name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"]["max-size"]
    assert service["deploy"]["resources"]["limits"]["memory"]
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "ports are bound to loopback"
    if name != "migrate":
        check = json.dumps(service["healthcheck"]["test"])
        assert "inspect" not in check and "ping -d" not in check
    if not service["image"].startswith("celeriac:") if "image" in service else True:
        assert re.fullmatch(r"\d+:\d+", service["user"])


def test_these_ports_are_published_and_no_others() -> None:
    published = {name for name, service in COMPOSE["services"].items() if service.get("ports")}
    assert published == {
        "web", "flower", "mail", "prometheus", "alertmanager", "grafana",
    }  # fmt: skip


def test_redis_is_as_large_in_both_runtimes() -> None:
    [in_compose] = re.findall(r"--maxmemory (\w+)", read("docker-compose.yml"))
    [embedded] = re.findall(r'"maxmemory": "(\w+)"', read("deploy/embedded/servers/redis.py"))
    assert in_compose == embedded


def test_lock_files_have_hashes_and_name_no_index() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        pins = re.findall(r"^[a-z0-9._-]+(?:\[[^]]*\])?==", text, re.MULTILINE)
        assert len(pins) > 40
        assert text.count("--hash=sha256:") >= len(pins)
        assert "://" not in text
        assert "--index-url" not in text and "--find-links" not in text


def test_celery_is_the_version_that_the_guards_know() -> None:
    from delivery.celery_guards import GUARDED_VERSIONS  # noqa: PLC0415

    for name, version in GUARDED_VERSIONS.items():
        assert re.search(
            rf"^{name}(\[redis\])?=={version} ", read("requirements/app.txt"), re.MULTILINE
        )


def test_make_alone_explains_every_target_that_the_readme_uses() -> None:
    help_text = subprocess.run(
        ["make"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
    for target in re.findall(r"make ([a-z-]+)", read("README.md")):
        assert re.search(rf"^  {target} ", help_text, re.MULTILINE), target


def test_documents_link_to_files_that_exist() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_folder_says_what_it_is_for() -> None:
    for folder in (ROOT / "app").iterdir():
        if (folder / "__init__.py").exists():
            assert (folder / "__init__.py").read_text(encoding="utf-8").startswith('"""'), folder
    for name in ("stack", "embedded", "mail_sink", "docker/airgap"):
        assert (Path(ROOT, "deploy", name) / "README.md").exists()
