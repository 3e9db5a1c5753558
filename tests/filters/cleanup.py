"""The judge of header_checks: a Postfix whose cleanup(8) reads its tables anew for each mail.

It has no queue manager, so what it accepts stays in the incoming queue, where postcat(1) reads
it.  Listeners stand before two cleanups: one has the tables, the other has none and shows the
mail as a milter would get it; before that one, a third listener asks a milter.
"""

from __future__ import annotations

import re
import smtplib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from milterd.core.mail import Mail, parse_message
from tests.peers.postfix import Postfix, postfix
from tests.peers.process import answers, free_port, program, wait_for

LISTS = ("header_checks", "mime_header_checks", "nested_header_checks", "body_checks")
MAIN = {
    "local_header_rewrite_clients": "",
    "message_drop_headers": "",
    "smtpd_client_connection_rate_limit": "0",
    "smtpd_soft_error_limit": "1000",
    "smtpd_hard_error_limit": "1000",
    "content_filter": "",
    "strict_mime_encoding_domain": "no",
}
OWN = b"/^Received: from client.example .*[[:space:]]by postfix\\.example\\.org/ DUNNO\n"
"""The first line of a table: a milter never sees the field that Postfix adds itself."""


@dataclass(frozen=True)
class Result:
    """What became of a mail: the reply, and what the queue holds (None: nothing)."""

    reply: bytes
    mail: Mail | None
    recipients: tuple[bytes, ...] = ()
    held: bool = False


@dataclass(frozen=True)
class Cleanup:
    """Both roads."""

    mta: Postfix
    plain: int
    asking: int
    tables: Path
    milter: Path
    """Where the milter of the third listener has to have its socket."""

    def plainly(self, message: bytes, *recipients: bytes) -> Mail:
        """The mail as Postfix hands it to milters."""
        result = self._send(self.plain, message, recipients)
        assert result.mail is not None, result
        return result.mail

    def checked(self, message: bytes, *recipients: bytes) -> Result:
        """What the tables do to it."""
        return self._send(self.mta.port, message, recipients)

    def asked(self, message: bytes, *recipients: bytes) -> Result:
        """What the milter does to it."""
        return self._send(self.asking, message, recipients)

    def _send(self, port: int, message: bytes, recipients: tuple[bytes, ...]) -> Result:
        with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
            client.ehlo("client.example")
            client.docmd("MAIL", "FROM:<sender@example.net>")
            for each in recipients:
                client.docmd("RCPT", f"TO:<{each.decode()}>")
            client.docmd("DATA")
            client.send(re.sub(rb"(?m)^\.", b"..", message) + b".\r\n")
            code, text = client.getreply()
        reply = b"%d %b" % (code, text)
        queued = re.search(rb"queued as ([0-9A-F]+)", reply)
        if queued is None:
            return Result(reply, None)
        return self._read(reply, queued[1].decode())

    def _read(self, reply: bytes, name: str) -> Result:
        places = ("hold", "incoming")
        found = [each for place in places for each in (self.mta.queue / place).rglob(name)]
        if not found:
            return Result(reply, None)
        command = [program("postcat", "postfix"), "-c", str(self.mta.config), str(found[0])]
        said = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
        held = found[0].parent.name == "hold" or "/hold/" in str(found[0])
        found[0].unlink()
        path = str(found[0]).encode()
        octets = said.partition(b"*** MESSAGE CONTENTS %b ***\n" % path)[2]
        octets, _, below = octets.partition(b"*** HEADER EXTRACTED %b ***\n" % path)
        envelope = said.partition(b"*** MESSAGE CONTENTS")[0] + below
        mail = parse_message(octets.replace(b"\n", b"\r\n"))
        assert mail.headers[0].named(b"Received")
        people = re.findall(rb"(?m)^recipient: (.*)$", envelope)
        redirect = re.findall(rb"(?m)^redirect_to: (.*)$", envelope)
        if redirect:
            people = redirect[-1:]
        return Result(reply, mail.with_headers(mail.headers[1:]), tuple(people), held)


@contextmanager
def cleanup() -> Iterator[Cleanup]:
    """Run it.  Tables are files called as the lists are."""
    with postfix(MAIN) as mta:
        tables = mta.config / "tables"
        tables.mkdir()
        plain, asking = free_port(), free_port()
        milter = mta.queue / "milter"
        milter.mkdir(mode=0o755)
        socket = milter / "headers.sock"
        master = (mta.config / "master.cf").read_text()
        lists = " ".join(f"-o {each}=$gatepost_{each}" for each in LISTS)
        master = re.sub(r"(?m)^qmgr.*$", "", master)
        master = re.sub(r"(?m)^cleanup\b.*$", "", master)
        master += (
            f"cleanup unix n - n - 0 cleanup -o max_use=1 {lists}\n"
            "plain unix n - n - 0 cleanup\n"
            f"127.0.0.1:{plain} inet n - y - - smtpd -o cleanup_service_name=plain\n"
            f"127.0.0.1:{asking} inet n - n - - smtpd -o cleanup_service_name=plain\n"
            f"  -o smtpd_milters=unix:{socket} -o milter_default_action=tempfail\n"
        )
        (mta.config / "master.cf").write_text(master)
        mta.set({f"gatepost_{each}": "" for each in LISTS})
        wait_for(lambda: answers(plain, b"220 "), "the second listener answers")
        yield Cleanup(mta, plain, asking, tables, milter)
