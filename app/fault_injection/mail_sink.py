"""Orders to the mail sink, by Mailpit's API. Both sinks keep them in memory: a restart ends them.

https://mailpit.axllent.org/docs/integration/chaos/
"""

from __future__ import annotations

import json
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from django.conf import settings

from fault_injection.errors import FaultError

#: Seconds for the sink's answer. It is next door, and somebody waits.
TIMEOUT_SECONDS: Final = 2.0
#: “Requested action aborted”: what a busy server says.
SMTP_STATUS: Final = 451


class SinkAwayError(FaultError):
    """There is no sink, or none that can be told anything: it refuses no mail on our order."""


def refuse_senders(percent: int) -> None:
    """Have the sink refuse so many percent of all mails.

    Raises:
        SinkAwayError: It is not there, or does not take such orders.
        FaultError: It does not answer; it may or may not obey.
    """
    if not settings.MAIL_SINK_URL:
        raise SinkAwayError("MAIL_SINK_URL does not say where the mail sink takes orders.")
    body = {"Sender": {"ErrorCode": SMTP_STATUS, "Probability": percent}}
    try:
        request = Request(  # noqa: S310 - the operator's own address
            f"{settings.MAIL_SINK_URL.rstrip('/')}/api/v1/chaos",
            method="PUT",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        # No proxy: the sink is part of the stack.
        with build_opener(ProxyHandler({})).open(request, timeout=TIMEOUT_SECONDS):
            return
    except HTTPError as error:
        answer = error.read(200).decode("utf-8", "replace")
        raise SinkAwayError(
            f"The mail sink refused the order ({error.code}: {answer}). Mailpit takes it only with "
            "MP_ENABLE_CHAOS=true."
        ) from error
    except TimeoutError as error:
        raise FaultError("The mail sink does not answer.") from error
    except URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise FaultError("The mail sink does not answer.") from error
        raise SinkAwayError(f"The mail sink cannot be reached: {error.reason}.") from error
    except (OSError, ValueError) as error:
        raise SinkAwayError(f"The mail sink cannot be reached: {error}.") from error
