"""The mail sink: keeps mails, shows them safely and fails as it is told to."""

import json
import os
import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from deploy.mail_sink.faults import RecipientRules, Triggers
from deploy.mail_sink.mailbox import Mailbox, ReceivedMail
from deploy.mail_sink.pages import mail_page
from deploy.mail_sink.reading import describe, list_headers, summarise

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Sink:
    """A running mail sink."""

    process: "subprocess.Popen[str]"
    smtp_port: int
    http_port: int

    def smtp(self) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.smtp_port, timeout=5)

    def request(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.http_port, timeout=5)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def read_json(self, path: str) -> Any:
        status, body = self.request("GET", path)
        assert status == 200, body
        return json.loads(body)


def start_sink() -> Sink:
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.mail_sink", "--smtp-port", "0", "--http-port", "0"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    # mail sink: SMTP on 127.0.0.1:1025, web page on http://127.0.0.1:8025/
    smtp, _, http = process.stdout.readline().partition(", web page on ")
    return Sink(process, int(smtp.rpartition(":")[2]), int(http.strip().strip("/").split(":")[2]))


@pytest.fixture(scope="module")
def running_sink() -> Iterator[Sink]:
    sink = start_sink()
    with sink.process:
        yield sink
        sink.process.kill()


@pytest.fixture
def sink(running_sink: Sink) -> Sink:
    running_sink.request("DELETE", "/api/v1/messages")
    running_sink.request("PUT", "/api/v1/chaos", {})
    return running_sink


def make_mail(subject: str = "Greetings", text: str = "Hello.\n") -> EmailMessage:
    mail = EmailMessage()
    mail["From"] = "Zoë Sender <zoe@example.org>"
    mail["To"] = "Ann <ann@example.org>"
    mail["Subject"] = subject
    mail["Message-ID"] = "<number-1@example.org>"
    mail.set_content(text)
    return mail


def received(content: bytes) -> ReceivedMail:
    mailbox = Mailbox(maximum_mails=1, maximum_bytes=10_000_000)
    return mailbox.add("sender@example.org", ["ann@example.org"], content)


def test_oldest_mails_are_dropped_and_counted_at_either_bound() -> None:
    by_number = Mailbox(maximum_mails=2, maximum_bytes=1000)
    mails = [by_number.add("a@x", ["b@x"], b"mail") for _ in range(5)]
    assert by_number.newest(start=0, limit=10) == [mails[4], mails[3]]
    assert by_number.newest(start=1, limit=10) == [mails[3]]
    assert by_number.get(mails[0].identifier) is None
    assert by_number.counters().dropped == 3

    by_bytes = Mailbox(maximum_mails=100, maximum_bytes=10)
    for _ in range(3):
        by_bytes.add("a@x", ["b@x"], b"12345")
    assert len(by_bytes) == 2
    by_bytes.delete()
    by_bytes.add("a@x", ["b@x"], b"1234567890")
    assert len(by_bytes) == 1, "deleting must give the bytes back"


def test_mailbox_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="room for at least one"):
        Mailbox(maximum_mails=0, maximum_bytes=1)


def test_mail_is_listed_and_read_as_in_the_api_of_mailpit(sink: Sink) -> None:
    with sink.smtp() as smtp:
        smtp.send_message(make_mail("Grüße"), to_addrs=["ann@example.org", "blind@example.org"])
        smtp.send_message(make_mail("Second"))

    listing = sink.read_json("/api/v1/messages?start=1&limit=5")
    assert (listing["total"], listing["count"], listing["messages_count"]) == (2, 1, 2)
    (summary,) = listing["messages"]
    assert summary["Subject"] == "Grüße"
    assert summary["MessageID"] == "number-1@example.org"
    assert summary["From"] == {"Name": "Zoë Sender", "Address": "zoe@example.org"}
    assert summary["To"] == [{"Name": "Ann", "Address": "ann@example.org"}]
    assert summary["Bcc"] == [{"Name": "", "Address": "blind@example.org"}]
    assert summary["Created"].endswith("Z")

    mail = sink.read_json(f"/api/v1/message/{summary['ID']}")
    assert mail["Text"] == "Hello.\n"
    assert sink.read_json(f"/api/v1/message/{summary['ID']}/headers")["Subject"] == ["Grüße"]
    assert sink.read_json("/api/v1/message/latest")["Subject"] == "Second"
    assert sink.read_json("/api/v1/info")["Messages"] == 2

    assert sink.request("DELETE", "/api/v1/messages", {"IDs": [summary["ID"]]}) == (200, "ok")
    assert sink.read_json("/api/v1/messages")["total"] == 1
    sink.request("DELETE", "/api/v1/messages")
    assert sink.read_json("/api/v1/messages")["total"] == 0


def test_pages_are_served_and_paged(sink: Sink) -> None:
    assert sink.request("GET", "/readyz") == (200, "ok")
    assert "No mail here" in sink.request("GET", "/")[1]
    with sink.smtp() as smtp:
        for number in range(51):
            smtp.send_message(make_mail(f"Mail {number}"))
    first, second = sink.request("GET", "/")[1], sink.request("GET", "/?page=2")[1]
    assert "Mail 50<" in first
    assert "Mail 0<" not in first
    assert "Mail 0<" in second
    identifier = sink.read_json("/api/v1/messages?limit=1")["messages"][0]["ID"]
    assert "Hello." in sink.request("GET", f"/message/{identifier}")[1]


def test_html_in_a_mail_is_escaped_everywhere(sink: Sink) -> None:
    hostile = "<script>alert('x')</script>"
    with sink.smtp() as smtp:
        smtp.send_message(make_mail(hostile, hostile))
    for path in ("/", "/message/" + sink.read_json("/api/v1/message/latest")["ID"]):
        page = sink.request("GET", path)[1]
        assert "<script" not in page
        assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"Subject: =?no-such-charset?B?////?=\r\nFrom: <<<>>,;\r\nTo: \xff\xff\r\n\r\n\xff",
        b"Subject: =?utf-8?B?abc?=\r\n\r\n",
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: multipart/mixed",
        b"Content-Type: text/plain; charset=no-such\r\n\r\nbody",
        b"Content-Type: text/plain; charset*=bad'x'%ff\r\n\r\nbody",
        b'Content-Type: text/plain; charset="a\0b"\r\n\r\nbody',
        b"Content-Transfer-Encoding: base64\r\n\r\n!!!",
        b"Content-Disposition: attachment; filename*=no-such''%ff\r\n\r\nbody",
        b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nbody",
        b"To: " + b"(" * 5000 + b"\r\n\r\n",
        b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (number, number)
            for number in range(3000)
        ),
    ],
)
def test_a_broken_mail_can_still_be_read(content: bytes) -> None:
    mail = received(content)
    json.dumps([summarise(mail), describe(mail), list_headers(mail)]).encode()
    mail_page(mail).encode()


def test_an_address_that_is_not_utf8_can_be_listed(sink: Sink) -> None:
    with sink.smtp() as smtp:
        smtp.ehlo()
        smtp.mail("a@x", ["SMTPUTF8"])
        assert smtp.sock is not None
        smtp.sock.sendall(b"RCPT TO:<\xff@x>\r\n")
        assert smtp.getreply()[0] == 250
        smtp.data(b"Subject: odd\r\n\r\n")
    assert sink.request("GET", "/")[0] == 200
    assert sink.request("GET", "/api/v1/messages")[0] == 200


def test_recipients_can_ask_to_be_rejected_or_deferred(sink: Sink) -> None:
    with sink.smtp() as smtp:
        for _ in range(3):
            smtp.ehlo_or_helo_if_needed()
            smtp.mail("zoe@example.org")
            assert smtp.rcpt("reject-550@example.org")[0] == 550
            smtp.rset()
        answers = []
        for _ in range(4):
            smtp.mail("zoe@example.org")
            answers.append(smtp.rcpt("defer-451-2+run-1@example.org")[0])
            smtp.rset()
    assert answers == [451, 451, 250, 250]
    assert sink.read_json("/api/v1/info")["RuntimeStats"]["SMTPRejected"] >= 5


def test_ordinary_recipients_are_accepted() -> None:
    rules = RecipientRules()
    for address in ("ann@example.org", "reject@x", "reject-200@x", "defer-550-1@x", "no-at-sign"):
        assert rules.error_code(address) is None


def test_chaos_refuses_by_chance(sink: Sink) -> None:
    faults = {
        "Sender": {"ErrorCode": 421, "Probability": 100},
        "Authentication": {"ErrorCode": 535, "Probability": 100},
    }
    status, body = sink.request("PUT", "/api/v1/chaos", faults)
    assert status == 200
    assert json.loads(body) == sink.read_json("/api/v1/chaos")
    assert sink.read_json("/api/v1/chaos")["Recipient"] == {"ErrorCode": 451, "Probability": 0}
    with sink.smtp() as smtp:
        smtp.ehlo()
        assert smtp.mail("zoe@example.org")[0] == 421
        with pytest.raises(smtplib.SMTPAuthenticationError):
            smtp.login("anyone", "anything")

    sink.request("PUT", "/api/v1/chaos", {"Recipient": {"ErrorCode": 452, "Probability": 100}})
    with sink.smtp() as smtp:
        smtp.ehlo()
        smtp.login("anyone", "anything")
        assert smtp.mail("zoe@example.org")[0] == 250
        assert smtp.rcpt("ann@example.org")[0] == 452


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ([], "must be an object"),
        ({"Sneder": {}}, "must be an object"),
        ({"Sender": 3}, "Sender must be an object"),
        ({"Sender": {"ErrorCode": 200}}, "from 400 to 599"),
        ({"Sender": {"Probability": 101}}, "from 0 to 100"),
        ({"Sender": {"Probability": True}}, "from 0 to 100"),
    ],
)
def test_wrong_chaos_is_refused_with_the_reason(body: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Triggers.from_json(body)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("GET", "/api/v1/message/unknown", None, 404),
        ("GET", "/api/v1/messages?limit=-1", None, 400),
        ("GET", "/?page=0", None, 400),
        ("PUT", "/api/v1/chaos", {"Sender": 1}, 400),
        ("PUT", "/", {}, 404),
        ("DELETE", "/api/v1/messages", {"IDs": "all"}, 400),
    ],
)
def test_wrong_requests_are_answered(
    sink: Sink, method: str, path: str, body: object, status: int
) -> None:
    answer, reason = sink.request(method, path, body)
    assert answer == status
    assert reason
    assert "Traceback" not in reason


def test_sigterm_ends_it_in_two_seconds_with_connections_open() -> None:
    sink = start_sink()
    with sink.process, sink.smtp() as smtp:
        smtp.ehlo()
        reader = HTTPConnection("127.0.0.1", sink.http_port, timeout=5)
        reader.request("GET", "/readyz")
        reader.getresponse().read()
        started = time.monotonic()
        sink.process.send_signal(signal.SIGTERM)
        assert sink.process.wait(timeout=5) == 0
        assert time.monotonic() - started < 2
        reader.close()
        smtp.close()


def test_a_port_in_use_is_one_clear_error(sink: Sink) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "deploy.mail_sink", "--http-port", "0"],
        cwd=REPOSITORY,
        env={**os.environ, "MAIL_SINK_SMTP_PORT": str(sink.smtp_port)},
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert result.returncode == 1
    assert "cannot start" in result.stderr
    assert "Traceback" not in result.stderr
