"""The milters that are graded: how each is set up, and the mails that make it do its work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from milterd.core.decision import Verdict
from milterd.core.mail import Client, Family, HeaderField, Mail
from milterd.lab.client import play
from milterd.lab.conform import samples
from milterd.lab.conform.catalog import CHECKS
from milterd.lab.conform.context import Options
from milterd.lab.conform.grade import Graded, grade
from tests.lab.cards.card import Card, Row, debian
from tests.peers import clamav_milter, dkimpy_milter, milterd, opendkim, pyspf_milter, rspamd
from tests.peers.clamd import clamd
from tests.peers.milter import Program
from tests.peers.nameserver import nameserver
from tests.peers.process import directory, wait_for

JOBS = 8
"""Checks at a time; each is a client that mostly waits."""
ANSWER = 20.0
"""Seconds for an answer: libmilter looks for some things only every five (MI_CHK_TIME), and a
milter in Python on a busy machine was seen to need eight."""

_EITHER = frozenset({"packet", "order", "oversize", "stop"})
"""Subjects where a milter may do one thing or another, and does now this, now that."""

Prepare = Callable[[Path], AbstractContextManager[Program]]
"""Makes a milter ready to start in a directory, and runs what it needs meanwhile."""


def signed_mails() -> tuple[Mail, ...]:
    """Mail of example.net, which signers sign, and mail of nobody they know."""
    return _of_example_net(samples.plain()), samples.plain()


def infected_mails() -> tuple[Mail, ...]:
    """A clean mail and a virus."""
    return samples.plain(), samples.virus(samples.plain())


def program_mails() -> tuple[Mail, ...]:
    """A mail with a program in it, and a plain one."""
    good = samples.plain()
    content = HeaderField(b"Content-Disposition", b' attachment; filename="setup.exe"')
    return good, good.with_headers((*good.headers, content))


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


def _plain(prepare: Callable[[Path], Program]) -> Prepare:
    """For one that needs nothing beside it."""
    return lambda home: nullcontext(prepare(home))


@contextmanager
def _clamav_milter(home: Path) -> Iterator[Program]:
    with clamd(home) as scanner:
        yield clamav_milter.prepare(home, scanner)


@contextmanager
def _pyspf_milter(home: Path) -> Iterator[Program]:
    records = {"example.net": "v=spf1 ip4:192.0.2.1 -all", "example.com": "v=spf1 -all"}
    with nameserver(records) as resolver:
        yield pyspf_milter.prepare(home, resolver)


def _headers(host: str) -> Prepare:
    settings = 'authserv_id = "mx.example.net"\n'
    return _plain(lambda home: milterd.prepare(home, "headers", host, settings))


def _dkim(host: str) -> Prepare:
    def prepare(home: Path) -> Program:
        settings = milterd.signing_table(opendkim.make_key(home).private)
        return milterd.prepare(home, "dkim", host, settings)

    return _plain(prepare)


def _attachments(host: str) -> Prepare:
    return _plain(lambda home: milterd.prepare(home, "attachments", host))


def _clamav(host: str) -> Prepare:
    @contextmanager
    def prepare(home: Path) -> Iterator[Program]:
        with clamd(home) as scanner:
            settings = f'clamd = "unix:{scanner.socket}"\nhostname = "mx.example.net"\n'
            yield milterd.prepare(home, "clamav", host, settings)

    return prepare


@dataclass(frozen=True, slots=True)
class Subject:
    """A milter: its card's name, how to make it ready, and the mails it is tried with."""

    name: str
    title: str
    about: str
    prepare: Prepare
    mails: Callable[[], Sequence[Mail]]
    package: str = ""
    dies: bool = False
    """Whether checks kill it, so that the card has to start it again."""
    answer: float = ANSWER
    """Seconds for an answer."""

    @property
    def on_libmilter(self) -> bool:
        """Whether libmilter serves its connections."""
        return self.name != "rspamd" and not self.name.endswith("-native")

    @contextmanager
    def ready(self) -> Iterator[Program]:
        """It, ready to be started in a directory of its own."""
        with directory("card") as home, self.prepare(home) as program:
            yield program

    def rows(self, program: Program) -> list[Row]:
        """Start it, again where it dies, and try every check."""
        options = Options(answer=self.answer, jobs=JOBS, mails=self.mails())
        if self.dies:
            return _rows(program, replace(options, command=program.command))
        with program.run() as peer:
            # clamav-milter answers before it has found its scanner, and defers until then.
            wait_for(lambda: self._judges(program), f"{self.name} judges a mail")
            return _rows(program, replace(options, pid=peer.peer.pid))

    def _judges(self, program: Program) -> bool:
        played = asyncio.run(play(program.address, self.mails()[0]))
        return played.verdict is not Verdict.TEMPFAIL

    def grade(self) -> list[Row]:
        """Its rows, in a directory of its own."""
        with self.ready() as program:
            return self.rows(program)

    @property
    def card(self) -> Card:
        """Its card."""
        ours = not self.package
        version = (lambda: "the one in this tree") if ours else debian(self.package)
        return Card(self.name, self.title, self.about, version, self.grade, ours)


def _rows(program: Program, options: Options) -> list[Row]:
    return [_row(each) for each in asyncio.run(grade(program.address, CHECKS, options))]


def _row(graded: Graded) -> Row:
    check, result = graded.check, graded.result
    outcome = result.outcome.value
    told = outcome != "pass" or check.subject not in _EITHER
    seen = result.seen if told else ""
    return Row(check.name, check.title, check.rule, check.source, outcome, seen)


def _ours(host: str) -> Iterator[Subject]:
    under = f"under the {host} host of `milterd`"
    filters: tuple[tuple[str, str, Callable[[str], Prepare], Callable[[], Sequence[Mail]]], ...] = (
        ("headers", "with the rule sets that come with it", _headers, revealing_mails),
        ("dkim", "signing for example.net", _dkim, signed_mails),
        ("clamav", "in front of clamd with our test signatures", _clamav, infected_mails),
        ("attachments", "with the rules that come with it", _attachments, program_mails),
    )
    for name, what, prepare, mails in filters:
        about = f"Our {name} filter {under}, {what}."
        yield Subject(f"{name}-{host}", f"{name}, {host} host", about, prepare(host), mails)


SUBJECTS: tuple[Subject, ...] = (
    *_ours("native"),
    *_ours("libmilter"),
    Subject(
        "opendkim",
        "OpenDKIM",
        "OpenDKIM in mode `s`, signing for example.net. It is a program on libmilter.",
        _plain(opendkim.prepare),
        signed_mails,
        "opendkim",
        dies=True,
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
        _plain(dkimpy_milter.prepare),
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
        _plain(rspamd.prepare),
        unwanted_mails,
        "rspamd",
        # No libmilter, which looks late, and four times there is no answer to wait for.
        answer=ANSWER / 2,
    ),
)
