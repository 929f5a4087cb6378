"""A mail backend with a bug: one recipient's mail cannot be sent, in a way that nobody expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend

#: The address that meets the bug.
UNLUCKY: Final = "unlucky@example.com"


class Backend(EmailBackend):
    """SMTP, but for the one address."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Send the mails.

        Raises:
            RuntimeError: One is for the unlucky recipient.
        """
        if any(UNLUCKY in message.to for message in email_messages):
            raise RuntimeError("a bug")
        return super().send_messages(email_messages)
