"""Reads stored mails for display. Mails are hostile input: nothing here raises on a broken one."""

import contextlib
import email
import email.header
import email.message
import email.utils
from collections.abc import Iterator
from email.errors import MessageError
from email.parser import BytesHeaderParser
from typing import TypeAlias

from deploy.mail_sink.mailbox import ReceivedMail

JsonObject: TypeAlias = dict[str, object]

_SNIPPET_CHARACTERS = 250


def summarise(mail: ReceivedMail) -> JsonObject:
    """One entry of GET /api/v1/messages, with the field names of Mailpit's API."""
    message = _parse(mail.content)
    return {
        "ID": mail.identifier,
        "MessageID": _header(message, "Message-ID").strip("<> "),
        "Read": False,
        **_addresses(message, mail),
        "Subject": _header(message, "Subject"),
        "Created": mail.received_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "Tags": [],
        "Size": len(mail.content),
        "Attachments": sum(1 for part in _leaves(message) if part.get_filename()),
        "Snippet": " ".join(_text(message, "text/plain").split())[:_SNIPPET_CHARACTERS],
    }


def describe(mail: ReceivedMail) -> JsonObject:
    """The answer to GET /api/v1/message/{ID}, with the field names of Mailpit's API."""
    message = _parse(mail.content)
    summary = summarise(mail)
    attachments: list[JsonObject] = [
        {
            "FileName": _decode(part.get_filename() or ""),
            "ContentType": part.get_content_type(),
            "Size": len(_payload(part)),
        }
        for part in _leaves(message)
        if part.get_filename()
    ]
    return {
        **{name: value for name, value in summary.items() if name not in ("Created", "Snippet")},
        "Date": summary["Created"],
        "ReturnPath": mail.sender,
        "Text": _text(message, "text/plain"),
        "HTML": _text(message, "text/html"),
        "Attachments": attachments,
        "Inline": [],
    }


def list_headers(mail: ReceivedMail) -> dict[str, list[str]]:
    """The answer to GET /api/v1/message/{ID}/headers: every value of each header, as sent."""
    headers: dict[str, list[str]] = {}
    for name, value in _parse(mail.content).items():
        headers.setdefault(name, []).append(_decode(str(value)))
    return headers


def _parse(content: bytes) -> email.message.Message:
    try:
        return email.message_from_bytes(content)
    except RecursionError:  # parts nested hundreds deep: show the headers only
        return BytesHeaderParser().parsebytes(content)


def _addresses(message: email.message.Message, mail: ReceivedMail) -> JsonObject:
    """The address fields. Recipients of the envelope that no header names were blind copies."""
    senders = _address_list(message, "From") or [{"Name": "", "Address": mail.sender}]
    named = {name: _address_list(message, name) for name in ("To", "Cc", "Reply-To")}
    visible = {entry["Address"].lower() for name in ("To", "Cc") for entry in named[name]}
    return {
        "From": senders[0],
        "To": named["To"],
        "Cc": named["Cc"],
        "Bcc": [
            {"Name": "", "Address": recipient}
            for recipient in mail.recipients
            if recipient.lower() not in visible
        ],
        "ReplyTo": named["Reply-To"],
    }


def _address_list(message: email.message.Message, name: str) -> list[dict[str, str]]:
    # Split before decoding: an encoded name may contain a comma.
    values = [str(value) for value in message.get_all(name, [])]
    try:
        pairs = email.utils.getaddresses(values)
    except RecursionError:  # comments nested hundreds deep
        pairs = [("", value) for value in values]
    return [
        {"Name": _decode(display_name), "Address": _decode(address)}
        for display_name, address in pairs
        if address
    ]


def _header(message: email.message.Message, name: str) -> str:
    return _decode(str(message.get(name, "")))


def _decode(value: str) -> str:
    """The text of an encoded header, on one line; as it is when it cannot be decoded."""
    with contextlib.suppress(LookupError, ValueError, MessageError):
        value = str(email.header.make_header(email.header.decode_header(value)))
    # Undecodable bytes arrive as surrogates, which cannot be written out as UTF-8.
    return " ".join(value.encode("utf-8", "replace").decode("utf-8").split())


def _leaves(message: email.message.Message) -> Iterator[email.message.Message]:
    return (part for part in message.walk() if not part.is_multipart())


def _text(message: email.message.Message, content_type: str) -> str:
    """The first part of this type that is not an attachment, or nothing."""
    for part in _leaves(message):
        if part.get_content_type() == content_type and not part.get_filename():
            try:
                charset = part.get_content_charset("utf-8")
                text = _payload(part).decode(charset, "replace")
            except (LookupError, ValueError):
                text = _payload(part).decode("utf-8", "replace")
            return text.replace("\r\n", "\n")
    return ""


def _payload(part: email.message.Message) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""
