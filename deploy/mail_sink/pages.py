"""The two HTML pages. Everything that comes from a mail is escaped."""

from html import escape
from string import Template

from deploy.mail_sink.mailbox import MailboxCounters, ReceivedMail
from deploy.mail_sink.reading import JsonObject, describe, list_headers, summarise

MAILS_PER_PAGE = 50

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<link rel="stylesheet" href="/style.css">
</head>
<body>
<header><a href="/">Mail sink</a> <span>$status</span></header>
<main>
$body
</main>
</body>
</html>
""")

_LIST = Template("""\
<table>
<thead><tr><th>Subject</th><th>From</th><th>To</th><th>Received (UTC)</th></tr></thead>
<tbody>
$rows
</tbody>
</table>
<nav>$links</nav>
""")

_ROW = Template("""\
<tr><td><a href="/message/$identifier">$subject</a></td><td>$sender</td><td>$recipients</td>\
<td><time datetime="$datetime">$time</time></td></tr>""")

_MAIL = Template("""\
<h1>$subject</h1>
<dl>
<dt>From</dt><dd>$sender</dd>
<dt>To</dt><dd>$recipients</dd>
<dt>Received (UTC)</dt><dd><time datetime="$datetime">$time</time></dd>
</dl>
<h2>$kind</h2>
<pre>$text</pre>
<details><summary>Headers</summary><pre>$headers</pre></details>
""")


def list_page(mails: list[ReceivedMail], *, page: int, kept: int, counters: MailboxCounters) -> str:
    """Page number `page` (from 1) of the list, which shows these mails of the `kept` ones."""
    if mails:
        rows = "\n".join(_ROW.substitute(_fields(mail, summarise(mail))) for mail in mails)
        body = _LIST.substitute(rows=rows, links=_links(page, kept))
    else:
        body = "<p>No mail here. Mails sent to this SMTP server appear on this page.</p>"
    status = f"{kept:,} kept, {counters.dropped:,} dropped"
    return _PAGE.substitute(title="Mail sink", status=status, body=body)


def mail_page(mail: ReceivedMail) -> str:
    """One mail: its text (or the source of its HTML, never rendered) and its headers."""
    description = describe(mail)
    text = str(description["Text"])
    html = str(description["HTML"])
    fields = _fields(mail, description)
    body = _MAIL.substitute(
        fields,
        kind="Text" if text or not html else "HTML source",
        text=escape(text or html),
        headers=escape(
            "\n".join(
                f"{name}: {value}"
                for name, values in list_headers(mail).items()
                for value in values
            )
        ),
    )
    return _PAGE.substitute(title=fields["subject"], status="", body=body)


def _fields(mail: ReceivedMail, description: JsonObject) -> dict[str, str]:
    """Escaped texts that both pages show."""
    recipients = mail.recipients[:3]
    more = len(mail.recipients) - len(recipients)
    return {
        "identifier": escape(mail.identifier),
        "subject": escape(str(description["Subject"]) or "(no subject)"),
        "sender": escape(mail.sender or "(empty)"),
        "recipients": escape(", ".join(recipients) + (f" and {more} more" if more else "")),
        "datetime": mail.received_at.isoformat(),
        "time": f"{mail.received_at:%Y-%m-%d %H:%M:%S}",
    }


def _links(page: int, kept: int) -> str:
    pages = max(1, -(-kept // MAILS_PER_PAGE))
    links = [f"Page {page:,} of {pages:,}"]
    if page > 1:
        links.insert(0, f'<a rel="prev" href="/?page={page - 1}">Newer</a>')
    if page < pages:
        links.append(f'<a rel="next" href="/?page={page + 1}">Older</a>')
    return " ".join(links)
