"""What newsletters make of addresses and of a mail server's answers."""

from __future__ import annotations

import smtplib

import pytest

from newsletters.services import _is_permanent, _reason, unique_addresses


def test_addresses_are_the_same_whatever_their_case() -> None:
    assert unique_addresses(["A@b.de", "c@d.de", "a@B.de"]) == ["A@b.de", "c@d.de"]


@pytest.mark.parametrize(
    ("error", "permanent", "reason"),
    [
        (
            smtplib.SMTPRecipientsRefused({"a@b.de": (550, b"no such user")}),
            True,
            "550 no such user",
        ),
        (smtplib.SMTPRecipientsRefused({"a@b.de": (451, b"later")}), False, "451 later"),
        (smtplib.SMTPDataError(554, b"spam"), True, "554 spam"),
        (smtplib.SMTPDataError(452, "full\r\n disk"), False, "452 full disk"),
        (smtplib.SMTPSenderRefused(421, b"closing", "a@b.de"), False, "421 closing"),
        (smtplib.SMTPServerDisconnected("gone"), False, "SMTPServerDisconnected: gone"),
    ],
)
def test_answers_are_final_or_not(
    error: smtplib.SMTPException, permanent: object, reason: str
) -> None:
    assert _is_permanent(error) is permanent
    assert _reason(error) == reason


def test_a_long_answer_is_cut() -> None:
    assert len(_reason(smtplib.SMTPDataError(554, b"x" * 10_000))) == 500
