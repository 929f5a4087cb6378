"""How a run looks: one line redrawn on a terminal, plain lines elsewhere, a table at last."""

from typing import Final, TextIO

from deploy.load.tally import Snapshot
from deploy.stack import table

#: Seconds between two lines where the output is no terminal.
PLAIN_INTERVAL: Final = 10.0


class Display:
    """Draws the progress of a run."""

    def __init__(self, stream: TextIO, duration: float) -> None:
        """Draw on `stream` a run of `duration` seconds."""
        self._stream = stream
        self._duration = duration
        self._terminal = stream.isatty()
        self._next_plain = 0.0
        self._drawn = False

    def show(self, elapsed: float, counts: Snapshot) -> None:
        """Draw the counts at that many seconds of the run."""
        if not self._terminal and elapsed < self._next_plain:
            return
        self._next_plain = elapsed + PLAIN_INTERVAL
        line = progress_line(elapsed, self._duration, counts)
        # The escape sequence clears what a longer line left behind.
        self._stream.write(f"\r{line}\x1b[K" if self._terminal else f"{line}\n")
        self._stream.flush()
        self._drawn = True

    def say(self, text: str) -> None:
        """Write a line of its own."""
        self.close()
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave the line that is redrawn."""
        if self._terminal and self._drawn:
            self._stream.write("\n")
        self._drawn = False


def progress_line(elapsed: float, duration: float, counts: Snapshot) -> str:
    """Return the counts on one line."""
    parts = [
        f"{min(elapsed, duration):4.0f}/{duration:.0f} s",
        f"submitted {counts.submitted}",
        f"accepted {counts.accepted}",
        f"refused {counts.refused}",
        f"done {counts.succeeded}",
        f"failed {counts.failed + counts.errors}",
        f"open {counts.open}",
        f"wait p95 {seconds(counts.wait_p95)}",
    ]
    return "  ".join(parts)


def summary_table(elapsed: float, counts: Snapshot) -> str:
    """Return the table that ends a run."""
    rows = [
        (
            "submitted",
            str(counts.submitted),
            f"{counts.submitted / max(elapsed, 1e-9):.1f} a second",
        ),
        ("accepted", str(counts.accepted), ""),
        ("refused", str(counts.refused), "429 or 503, with Retry-After"),
        ("errors", str(counts.errors), "any other answer, or none"),
        ("held back", str(counts.held_back), "planned, not sent: asked to wait, or senders busy"),
        ("succeeded", str(counts.succeeded), ""),
        ("failed", str(counts.failed), ""),
        ("cancelled", str(counts.cancelled), ""),
        ("not ended", str(counts.open), "they go on; nothing is lost"),
        ("mails refused", str(counts.mails_refused), "by the mail sink, as --failures asks"),
        (
            "submission",
            _pair(counts.submission_p50, counts.submission_p95),
            "from request to answer",
        ),
        ("wait to start", _pair(counts.wait_p50, counts.wait_p95), "from submission to first task"),
    ]
    return table.render(rows)


def seconds(value: float | None) -> str:
    """Return seconds as people read them."""
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _pair(median: float | None, high: float | None) -> str:
    return f"p50 {seconds(median)}, p95 {seconds(high)}"
