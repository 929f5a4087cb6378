"""The HTTP side: pages for people and the part of Mailpit's API v1 that scripts use."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self, TypeAlias
from urllib.parse import parse_qs, urlsplit

from deploy.mail_sink.faults import Triggers
from deploy.mail_sink.mailbox import Mailbox, ReceivedMail
from deploy.mail_sink.pages import MAILS_PER_PAGE, list_page, mail_page
from deploy.mail_sink.reading import JsonObject, describe, list_headers, summarise
from deploy.mail_sink.receiver import Receiver

_Query: TypeAlias = dict[str, list[str]]

_LARGEST_BODY_BYTES = 1024 * 1024
_LARGEST_LIMIT = 10_000
_STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
_API_MAIL = re.compile(r"/api/v1/message/(?P<identifier>\w+)(?P<headers>/headers)?")
_PAGE_MAIL = re.compile(r"/message/(?P<identifier>\w+)")


class RequestError(Exception):
    """What is wrong with a request, and the status to answer it with."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        """Keep both."""
        super().__init__(message)
        self.status = status


class WebServer(ThreadingHTTPServer):
    """Serves one mailbox; one thread for each connection."""

    daemon_threads = True
    # Readers that keep a connection open must not hold up the end of the process.
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], mailbox: Mailbox, receiver: Receiver) -> None:
        """Bind the address. OSError when that is not possible."""
        super().__init__(address, _RequestHandler)
        self.mailbox = mailbox
        self.receiver = receiver
        self.started = time.monotonic()


@dataclass(frozen=True, slots=True)
class _Answer:
    """What goes back to the client."""

    content_type: str
    body: str

    @classmethod
    def json(cls, value: object) -> Self:
        return cls("application/json", json.dumps(value))

    @classmethod
    def html(cls, body: str) -> Self:
        return cls("text/html; charset=utf-8", body)

    @classmethod
    def text(cls, body: str) -> Self:
        return cls("text/plain; charset=utf-8", body)


class _RequestHandler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    server_version = "mail-sink"
    sys_version = ""
    timeout = 30  # seconds without a request until the connection is closed
    server: WebServer

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_PUT(self) -> None:
        self._answer(self._put)

    def do_DELETE(self) -> None:
        self._answer(self._delete)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named so there
        """Keep quiet: health checks and tests ask many times a minute."""

    def _get(self, path: str, query: _Query) -> _Answer:
        readers: dict[str, Callable[[_Query], _Answer]] = {
            "/": self._list_page,
            "/style.css": lambda _: _Answer("text/css; charset=utf-8", _STYLE),
            "/livez": lambda _: _Answer.text("ok"),
            "/readyz": lambda _: _Answer.text("ok"),
            "/api/v1/messages": lambda query: _Answer.json(self._list(query)),
            "/api/v1/info": lambda _: _Answer.json(self._info()),
            "/api/v1/chaos": lambda _: _Answer.json(self.server.receiver.triggers.to_json()),
        }
        if path in readers:
            return readers[path](query)
        if match := _API_MAIL.fullmatch(path):
            mail = self._find(match["identifier"])
            return _Answer.json(list_headers(mail) if match["headers"] else describe(mail))
        if match := _PAGE_MAIL.fullmatch(path):
            return _Answer.html(mail_page(self._find(match["identifier"])))
        raise RequestError(HTTPStatus.NOT_FOUND, "no such page")

    def _list_page(self, query: _Query) -> _Answer:
        mailbox = self.server.mailbox
        page = _whole_number(query, "page", default=1, smallest=1)
        mails = mailbox.newest(start=(page - 1) * MAILS_PER_PAGE, limit=MAILS_PER_PAGE)
        return _Answer.html(
            list_page(mails, page=page, kept=len(mailbox), counters=mailbox.counters())
        )

    def _put(self, path: str, _: _Query) -> _Answer:
        if path != "/api/v1/chaos":
            raise RequestError(HTTPStatus.NOT_FOUND, "PUT knows only /api/v1/chaos")
        try:
            triggers = Triggers.from_json(self._read_json())
        except ValueError as error:
            raise RequestError(HTTPStatus.BAD_REQUEST, str(error)) from None
        self.server.receiver.triggers = triggers
        return _Answer.json(triggers.to_json())

    def _delete(self, path: str, _: _Query) -> _Answer:
        if path != "/api/v1/messages":
            raise RequestError(HTTPStatus.NOT_FOUND, "DELETE knows only /api/v1/messages")
        body = self._read_json()
        identifiers = body.get("IDs", []) if isinstance(body, dict) else None
        if not isinstance(identifiers, list) or not all(isinstance(i, str) for i in identifiers):
            raise RequestError(
                HTTPStatus.BAD_REQUEST, 'the body must be empty or {"IDs": ["...", ...]}'
            )
        self.server.mailbox.delete(identifiers or None)
        return _Answer.text("ok")

    def _list(self, query: _Query) -> JsonObject:
        start = _whole_number(query, "start", default=0)
        limit = min(_whole_number(query, "limit", default=50), _LARGEST_LIMIT)
        mails = self.server.mailbox.newest(start=start, limit=limit)
        total = len(self.server.mailbox)
        return {
            "total": total,
            "unread": total,
            "count": len(mails),
            "messages_count": total,
            "messages_unread": total,
            "start": start,
            "tags": [],
            "messages": [summarise(mail) for mail in mails],
        }

    def _info(self) -> JsonObject:
        counters = self.server.mailbox.counters()
        total = len(self.server.mailbox)
        return {
            "Version": "mail-sink",
            "Database": "memory",
            "Messages": total,
            "Unread": total,
            "RuntimeStats": {
                "Uptime": int(time.monotonic() - self.server.started),
                "SMTPAccepted": counters.accepted,
                "SMTPAcceptedSize": counters.accepted_bytes,
                "SMTPRejected": self.server.receiver.refused,
                # Not in Mailpit's API.
                "SMTPConnections": self.server.receiver.connections,
                "MessagesDeleted": counters.deleted,
                "MessagesDropped": counters.dropped,
            },
        }

    def _find(self, identifier: str) -> ReceivedMail:
        mailbox = self.server.mailbox
        if identifier == "latest":
            mail = next(iter(mailbox.newest(start=0, limit=1)), None)
        else:
            mail = mailbox.get(identifier)
        if mail is None:
            raise RequestError(HTTPStatus.NOT_FOUND, "no such mail; it may have been dropped")
        return mail

    def _read_json(self) -> object:
        """The request's body; an empty one is an empty object."""
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > _LARGEST_BODY_BYTES:
            # The unread body would be taken for the next request.
            self.close_connection = True
            raise RequestError(
                HTTPStatus.BAD_REQUEST,
                f"Content-Length must be a number of at most {_LARGEST_BODY_BYTES} bytes",
            )
        try:
            return json.loads(self.rfile.read(int(length)) or b"{}")
        except ValueError:
            raise RequestError(HTTPStatus.BAD_REQUEST, "the body is not valid JSON") from None

    def _answer(self, find: Callable[[str, _Query], _Answer]) -> None:
        status = HTTPStatus.OK
        try:
            address = urlsplit(self.path)
            answer = find(address.path, parse_qs(address.query))
        except RequestError as error:
            status, answer = error.status, _Answer.text(str(error))
        except ValueError:
            status, answer = HTTPStatus.BAD_REQUEST, _Answer.text("the address is not valid")
        # Addresses may hold bytes that were not UTF-8.
        body = answer.body.encode("utf-8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'self'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _whole_number(query: _Query, name: str, *, default: int, smallest: int = 0) -> int:
    text = query.get(name, [str(default)])[-1]
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or int(text) < smallest:
        raise RequestError(
            HTTPStatus.BAD_REQUEST, f"{name} must be a whole number, {smallest} or more"
        )
    return int(text)
