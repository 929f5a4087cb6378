"""Runs the mail sink: python -m deploy.mail_sink --help."""

import argparse
import asyncio
import os
import signal
import sys
import threading

from deploy.mail_sink.mailbox import Mailbox
from deploy.mail_sink.receiver import Receiver
from deploy.mail_sink.web import WebServer


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; each default can be set by an environment variable."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.mail_sink",
        description="Accepts every mail by SMTP, delivers none, shows them on a web page.",
        epilog="Every option is also read from the environment: --smtp-port from"
        " MAIL_SINK_SMTP_PORT, and so on.",
    )

    def add(option: str, default: str | int, meaning: str) -> None:
        variable = "MAIL_SINK_" + option.upper().replace("-", "_")
        parser.add_argument(
            f"--{option}",
            default=os.environ.get(variable) or str(default),
            type=type(default),
            help=f"{meaning} (default: {default})",
        )

    add("smtp-host", "127.0.0.1", "address to take mails on")
    add("smtp-port", 1025, "port to take mails on")
    add("http-host", "127.0.0.1", "address of the web page")
    add("http-port", 8025, "port of the web page")
    add("maximum-mails", 50_000, "mails kept, the oldest are dropped")
    add("maximum-megabytes", 256, "memory for mail contents, the oldest are dropped")
    return parser.parse_args(arguments)


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT. OSError when an address cannot be bound."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    mailbox = Mailbox(
        maximum_mails=options.maximum_mails, maximum_bytes=options.maximum_megabytes * 1024**2
    )
    receiver = Receiver(mailbox)
    smtp_server = await loop.create_server(
        receiver.protocol, options.smtp_host, options.smtp_port, reuse_address=True, backlog=512
    )
    web_server = WebServer((options.http_host, options.http_port), mailbox, receiver)
    threading.Thread(target=web_server.serve_forever, args=(0.1,), daemon=True).start()

    smtp_port = smtp_server.sockets[0].getsockname()[1]
    print(
        f"mail sink: SMTP on {options.smtp_host}:{smtp_port},"
        f" web page on http://{options.http_host}:{web_server.server_port}/",
        flush=True,
    )
    await stop.wait()
    smtp_server.close()
    web_server.shutdown()
    web_server.server_close()


def main() -> int:
    """Run and return the exit status: 0 after a signal, 1 when it could not start."""
    try:
        asyncio.run(serve(parse_arguments(sys.argv[1:])))
    except (OSError, OverflowError, ValueError) as error:
        print(
            f"mail sink: cannot start: {error}\n"
            "Correct the addresses, ports or bounds; --help lists them.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
