"""The SMTP side: takes mails into the mailbox, or refuses them as the faults in force say."""

# ruff: noqa: N802 - aiosmtpd names the methods it calls

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from deploy.mail_sink.faults import RecipientRules, Triggers
from deploy.mail_sink.mailbox import Mailbox

LARGEST_MAIL_BYTES = 32 * 1024 * 1024


class Receiver:
    """Handles the steps of every SMTP conversation; one object serves all connections."""

    def __init__(self, mailbox: Mailbox) -> None:
        """Take mails into this mailbox, without random faults at first."""
        self.triggers = Triggers()
        self.refused = 0
        self.connections = 0
        self._mailbox = mailbox
        self._recipient_rules = RecipientRules()

    def protocol(self) -> SMTP:
        """A new protocol object for one connection (the factory that asyncio calls)."""
        self.connections += 1
        return SMTP(
            self,
            hostname="mail-sink",
            ident="mail sink",
            data_size_limit=LARGEST_MAIL_BYTES,
            enable_SMTPUTF8=True,
            authenticator=self.authenticate,
            # A sink accepts any password, so there is nothing to protect by TLS.
            auth_require_tls=False,
        )

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object
    ) -> AuthResult:
        """Accept any user name and password."""
        trigger = self.triggers.Authentication
        if trigger.fires():
            self.refused += 1
            return AuthResult(
                success=False,
                handled=False,
                message=f"{trigger.ErrorCode} Refused by chance (authentication)",
            )
        return AuthResult(success=True)

    async def handle_MAIL(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        mail_options: list[str],
    ) -> str:
        """Answer MAIL FROM."""
        trigger = self.triggers.Sender
        if trigger.fires():
            self.refused += 1
            return f"{trigger.ErrorCode} Refused by chance (sender)"
        envelope.mail_from = address
        envelope.mail_options.extend(mail_options)
        return "250 OK"

    async def handle_RCPT(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        rcpt_options: list[str],
    ) -> str:
        """Answer RCPT TO."""
        error_code = self._recipient_rules.error_code(address)
        if error_code is not None:
            self.refused += 1
            return f"{error_code} Refused as this address asks for"
        trigger = self.triggers.Recipient
        if trigger.fires():
            self.refused += 1
            return f"{trigger.ErrorCode} Refused by chance (recipient)"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(rcpt_options)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Store the mail."""
        content = envelope.content
        if isinstance(content, str):
            content = content.encode()
        mail = self._mailbox.add(envelope.mail_from or "", envelope.rcpt_tos, content or b"")
        return f"250 OK: stored as {mail.identifier}"
