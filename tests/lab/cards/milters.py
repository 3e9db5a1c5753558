"""The milters that are graded: how each is set up, and the mails that make it do its work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from milterd.core.mail import Client, Family, HeaderField, Mail
from milterd.lab.conform import samples
from milterd.lab.conform.catalog import CHECKS
from milterd.lab.conform.context import Options
from milterd.lab.conform.grade import Graded, grade
from tests.lab.cards.card import Card, Row, debian
from tests.peers.clamav_milter import Milter, clamav_milter
from tests.peers.clamd import clamd
from tests.peers.dkimpy_milter import dkimpy_milter
from tests.peers.milterd import milterd, signing_table
from tests.peers.nameserver import nameserver
from tests.peers.opendkim import make_key, opendkim
from tests.peers.process import directory
from tests.peers.pyspf_milter import pyspf_milter
from tests.peers.rspamd import rspamd

JOBS = 8
"""Checks at a time; each is a client that mostly waits."""

Start = Callable[[Path], AbstractContextManager[Milter]]


def signed_mails() -> tuple[Mail, ...]:
    """Mail of example.net, which signers sign, and mail of nobody they know."""
    return _of_example_net(samples.plain()), samples.plain()


def infected_mails() -> tuple[Mail, ...]:
    """A clean mail and a virus."""
    return samples.plain(), samples.virus(samples.plain())


def unwanted_mails() -> tuple[Mail, ...]:
    """A good mail and spam."""
    return samples.plain(), samples.spam(samples.plain())


def forged_mails() -> tuple[Mail, ...]:
    """Mail of a client that may send for example.net, and may not for example.com."""
    client = Client(b"mx.example.net", Family.INET, b"192.0.2.1", 25000)
    good = _of_example_net(samples.plain())
    good = replace(good, session=replace(good.session, client=client, helo=b"mx.example.net"))
    return good, replace(good, envelope=replace(good.envelope, sender=b"sender@example.com"))


def revealing_mails() -> tuple[Mail, ...]:
    """A mail of ours that tells too much, and one that does not."""
    good = samples.plain()
    return good.with_headers((*good.headers, HeaderField(b"User-Agent", b" Agent/1.0"))), good


def _of_example_net(mail: Mail) -> Mail:
    sender = HeaderField(b"From", b" Sender <sender@example.net>")
    fields = (sender if each.named(b"From") else each for each in mail.headers)
    envelope = replace(mail.envelope, sender=b"sender@example.net")
    return replace(mail, envelope=envelope, headers=tuple(fields))


@contextmanager
def _clamav_milter(home: Path) -> Iterator[Milter]:
    with clamd(home) as scanner, clamav_milter(home, scanner) as peer:
        yield peer


@contextmanager
def _pyspf_milter(home: Path) -> Iterator[Milter]:
    records = {"example.net": "v=spf1 ip4:192.0.2.1 -all", "example.com": "v=spf1 -all"}
    with nameserver(records) as resolver, pyspf_milter(home, resolver) as peer:
        yield peer


def _headers(host: str) -> Start:
    return lambda home: milterd(home, "headers", host, 'authserv_id = "mx.example.net"\n')


def _dkim(host: str) -> Start:
    return lambda home: milterd(home, "dkim", host, signing_table(make_key(home).private))


def _clamav(host: str) -> Start:
    @contextmanager
    def start(home: Path) -> Iterator[Milter]:
        with clamd(home) as scanner:
            settings = f'clamd = "unix:{scanner.socket}"\nhostname = "mx.example.net"\n'
            with milterd(home, "clamav", host, settings) as peer:
                yield peer

    return start


@dataclass(frozen=True, slots=True)
class Subject:
    """A milter: its card's name, how to start it, and the mails it is tried with."""

    name: str
    title: str
    about: str
    start: Start
    mails: Callable[[], Sequence[Mail]]
    package: str = ""

    @contextmanager
    def started(self) -> Iterator[Milter]:
        """It, in a directory of its own."""
        with directory("card") as home, self.start(home) as peer:
            yield peer

    def rows(self, peer: Milter) -> list[Row]:
        """Try every check, the last of which ends it."""
        options = Options(jobs=JOBS, mails=self.mails(), pid=peer.peer.pid)
        return [_row(each) for each in asyncio.run(grade(peer.address, CHECKS, options))]

    def grade(self) -> list[Row]:
        """Start it, try every check, and end it."""
        with self.started() as peer:
            return self.rows(peer)

    @property
    def card(self) -> Card:
        """Its card."""
        ours = not self.package
        version = (lambda: "the one in this tree") if ours else debian(self.package)
        return Card(self.name, self.title, self.about, version, self.grade, ours)


def _row(graded: Graded) -> Row:
    check, result = graded.check, graded.result
    outcome = result.outcome.value
    return Row(check.name, check.title, check.rule, check.source, outcome, result.seen)


def _ours(host: str) -> Iterator[Subject]:
    under = f"under the {host} host of `milterd`"
    filters: tuple[tuple[str, str, Callable[[str], Start], Callable[[], Sequence[Mail]]], ...] = (
        ("headers", "with the rule sets that come with it", _headers, revealing_mails),
        ("dkim", "signing for example.net", _dkim, signed_mails),
        ("clamav", "in front of clamd with our test signatures", _clamav, infected_mails),
    )
    for name, what, start, mails in filters:
        about = f"Our {name} filter {under}, {what}."
        yield Subject(f"{name}-{host}", f"{name}, {host} host", about, start(host), mails)


SUBJECTS: tuple[Subject, ...] = (
    *_ours("native"),
    *_ours("libmilter"),
    Subject(
        "opendkim",
        "OpenDKIM",
        "OpenDKIM in mode `s`, signing for example.net. It is a program on libmilter.",
        opendkim,
        signed_mails,
        "opendkim",
    ),
    Subject(
        "clamav-milter",
        "clamav-milter",
        "clamav-milter in front of clamd with our test signatures, `OnInfected Reject`. It is a "
        "program on libmilter.",
        _clamav_milter,
        infected_mails,
        "clamav-milter",
    ),
    Subject(
        "dkimpy-milter",
        "dkimpy-milter",
        "dkimpy-milter in mode `s`, signing for example.net. It is a program on pymilter, and so "
        "on libmilter.",
        dkimpy_milter,
        signed_mails,
        "dkimpy-milter",
    ),
    Subject(
        "pyspf-milter",
        "pyspf-milter (spf-engine)",
        "pyspf-milter with a name server of ours, where example.net permits the client and "
        "example.com nobody. It is a program on pymilter, and so on libmilter.",
        _pyspf_milter,
        forged_mails,
        "pyspf-milter",
    ),
    Subject(
        "rspamd",
        "rspamd, proxy worker",
        "rspamd's proxy worker with `milter` and `self_scan`, without redis, maps and Lua modules: "
        "it judges by its test patterns. It has its own implementation of the protocol.",
        rspamd,
        unwanted_mails,
        "rspamd",
    ),
)
