"""What `up` prints when the stack is ready: where everything is and how to sign in."""

import json
import shlex
from collections.abc import Collection, Mapping

from deploy.stack import ports, table
from deploy.stack.errors import StackError
from deploy.stack.ports import Port

_PAGES: tuple[tuple[str, Port, str], ...] = (
    ("Console", ports.WEB, "/"),
    ("API documentation", ports.WEB, "/api/docs"),
    ("Django admin", ports.WEB, "/admin/"),
    ("Flower", ports.FLOWER, "/"),
    ("Mail sink", ports.MAIL_WEB, "/"),
    ("Prometheus", ports.PROMETHEUS, "/"),
    ("Alertmanager", ports.ALERTMANAGER, "/"),
    ("Grafana", ports.GRAFANA, "/"),
)


def address(port: Port, values: Mapping[str, str], path: str = "") -> str:
    """Return the URL of `path` at a published port."""
    return f"http://{ports.HOST}:{port.number(values)}{path}"


def api_token(values: Mapping[str, str]) -> str:
    """Return the first token of API_TOKENS (`name:token`, comma separated).

    Raises StackError when there is none.
    """
    first = values.get("API_TOKENS", "").split(",")[0].strip()
    name, _, token = first.partition(":")
    if not name or not token:
        raise StackError("API_TOKENS in .env must hold name:token, for example local:abc123")
    return token


def render(values: Mapping[str, str], services: Collection[str]) -> str:
    """Return the addresses of the running services, the credentials and a first request."""
    rows = [
        (name, address(port, values, path), _credentials(port, path, values))
        for name, port, path in _PAGES
        if port.service in services
    ]
    body = {
        "subject": "Hello",
        "body": "First mail from Celeriac",
        "recipients": ["ada@example.com", "grace@example.com"],
    }
    request = [
        f"curl -s -X POST {address(ports.WEB, values, '/api/jobs/newsletter')} \\",
        f"  -H {shlex.quote('Authorization: Bearer ' + api_token(values))} \\",
        "  -H 'Content-Type: application/json' \\",
        f"  -d {shlex.quote(json.dumps(body, separators=(',', ':')))}",
    ]
    heading = "Send a first newsletter (or run make demo):"
    return "\n".join(["", table.render(rows), "", heading, *request])


def _credentials(port: Port, path: str, values: Mapping[str, str]) -> str:
    if port is ports.WEB and path != "/api/docs":
        return f"admin / {values.get('DJANGO_SUPERUSER_PASSWORD', '')}"
    if port is ports.FLOWER:
        return values.get("FLOWER_BASIC_AUTH", "").replace(":", " / ", 1)
    if port is ports.GRAFANA:
        return f"admin / {values.get('GRAFANA_ADMIN_PASSWORD', '')}"
    return ""
