"""The MTAs that are graded, each as the lab wants it: its milter, its next hop, and a second
address where the milter's default action is accept."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from milterd.base.sockets import parse
from milterd.lab.conform.grade import Graded
from milterd.lab.mta.check import Site
from milterd.lab.mta.grade import CHECKS, Options, grade
from tests.lab.cards.card import Card, Row, debian
from tests.peers.postfix import postfix
from tests.peers.process import answers, daemon, directory, free_port, wait_for

LIMIT = 3
"""Seconds that both MTAs wait for their milter."""
JOBS = 16
"""Checks at a time; each mostly waits."""

Prepared = tuple[Site, Options]


def _site(port: int, accepting: int, refused: bytes) -> Site:
    return Site(
        smtp=parse(f"127.0.0.1:{port}"),
        accepting=parse(f"127.0.0.1:{accepting}"),
        refused=refused,
        command=LIMIT,
        content=LIMIT,
        delivery=15.0,
    )


@contextmanager
def graded_postfix() -> Iterator[Prepared]:
    """A private Postfix."""
    sink, lenient = free_port(), free_port()
    main = {
        "smtpd_milters": "unix:lab.sock",
        "milter_command_timeout": f"{LIMIT}s",
        "milter_content_timeout": f"{LIMIT}s",
        "default_transport": f"smtp:[127.0.0.1]:{sink}",
        "smtpd_recipient_restrictions": "check_recipient_access inline:{nobody@lab.example=REJECT}",
        # It would put a pause before every mail while the queue grows faster than it drains.
        "in_flow_delay": "0",
    }
    with postfix(main) as mta:
        service = f"127.0.0.1:{lenient}/inet"
        milter = "{unix:lab.sock,default_action=accept}"
        line = f"127.0.0.1:{lenient} inet n - y - - smtpd -o smtpd_milters={milter}"
        mta.command("postconf", "-M", "-e", f"{service}={line}")
        mta.command("postfix", "reload")
        wait_for(lambda: answers(lenient, b"220 "), "postfix's second port answers")
        options = Options(f"unix:{mta.queue}/lab.sock", f"127.0.0.1:{sink}", jobs=JOBS)
        yield _site(mta.port, lenient, b"nobody@lab.example"), options


_SMTPGW = """
[log]
format = "json"
[metrics]
smtpgw = ""
[smtpgw]
myhostname = "gw.example.net"
mydestination = ["lab.example"]
mynetworks = ["192.0.2.0/24"]
stop_timeout = 1
[[smtpgw.listener]]
name = "mx"
address = "127.0.0.1:{port}"
[[smtpgw.listener]]
name = "lenient"
address = "127.0.0.1:{lenient}"
[[smtpgw.milter]]
name = "lab"
address = "unix:{socket}"
command_timeout = {limit}
content_timeout = {limit}
listeners = ["mx"]
[[smtpgw.milter]]
name = "lenient"
address = "unix:{socket}"
command_timeout = {limit}
content_timeout = {limit}
default_action = "accept"
listeners = ["lenient"]
[smtpgw.decisions]
in_replies = false

[smtpgw.queue]
directory = "{home}/queue"
[smtpgw.delivery]
default = "smtp:[127.0.0.1]:{sink}"
"""


@contextmanager
def graded_smtpgw() -> Iterator[Prepared]:
    """The gateway, as a process of its own."""
    port, lenient, sink = free_port(), free_port(), free_port()
    with directory("mta") as home:
        socket, file = home / "lab.sock", home / "gatepost.toml"
        file.write_text(
            _SMTPGW.format(
                port=port, lenient=lenient, sink=sink, socket=socket, home=home, limit=LIMIT
            )
        )
        command = [sys.executable, "-m", "smtpgw", "run", "--config", str(file)]
        log = home / "smtpgw.log"
        with daemon("smtpgw", command, home, lambda: '"event": "ready"' in log.read_text()):
            options = Options(f"unix:{socket}", f"127.0.0.1:{sink}", jobs=JOBS)
            yield _site(port, lenient, b"nobody@elsewhere.example"), options


def card_of(
    start: Callable[[], AbstractContextManager[Prepared]], names: Sequence[str] = ()
) -> list[Graded]:
    """Start an MTA, and grade it by all checks, or by these."""
    checks = [each for each in CHECKS if not names or each.name in names]
    with start() as (site, options):
        return asyncio.run(grade(site, options, checks))


def _rows(start: Callable[[], AbstractContextManager[Prepared]]) -> list[Row]:
    return [
        Row(
            each.check.name,
            each.check.title,
            each.check.rule,
            each.check.source,
            each.result.outcome.value,
            each.result.seen,
        )
        for each in card_of(start)
    ]


_SETUP = (
    f"Its milter is `milterlab conform --mta`, which it gives {LIMIT} s for an answer; it delivers "
    "to the lab's sink. Its second address has a default action of accept."
)
EXPLAINED = "../conform-mta.md"

CARDS: tuple[Card, ...] = (
    Card(
        "mta-postfix",
        "Postfix, as the MTA",
        f"Debian's Postfix, graded as a milter's MTA. {_SETUP}",
        debian("postfix"),
        lambda: _rows(graded_postfix),
        explained=EXPLAINED,
    ),
    Card(
        "mta-smtpgw",
        "smtpgw, as the MTA",
        f"The gateway, graded as a milter's MTA. {_SETUP}",
        lambda: "the one in this tree",
        lambda: _rows(graded_smtpgw),
        ours=True,
        explained=EXPLAINED,
    ),
)
"""The cards of MTAs."""
