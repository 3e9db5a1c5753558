"""Inside or behind a socket: a filter sees the same mail, and what it says comes to the same."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from milterd.core.actions import AddHeader, ReplaceBody
from milterd.core.decision import Decision, Reply, Verdict
from milterd.core.filter import Need
from milterd.core.mail import (
    BytesBody,
    Client,
    Envelope,
    Family,
    HeaderField,
    Mail,
    Recipient,
    Session,
)
from milterd.host.connection import Connection
from milterd.host.inside import Inside
from milterd.host.judge import Judge, Surroundings
from milterd.host.options import OnFailure, Options
from smtpgw.chain.chain import Chain
from smtpgw.chain.options import MilterOptions
from smtpgw.chain.results import ChainResult, StageResult
from tests.chain.scripted import Log, run
from tests.unit import strategies as some

ALL = ~Need(0)


class Full(Log):
    """A filter's log."""

    def error(self, event: str, **values: object) -> None:
        self.lines.append((event, values))

    exception = error


@dataclass
class Said:
    """Decides what it is told to; keeps what it was shown."""

    decision: Decision
    needs: Need
    name: str = "own"
    shown: list[Mail] = field(default_factory=list)

    def gather(self, _: Mail) -> None:
        """Asks nobody."""

    def decide(self, mail: Mail, _: object) -> Decision:
        self.shown.append(mail)
        return self.decision


@asynccontextmanager
async def behind_socket(judge: Judge, around: Surroundings) -> AsyncIterator[MilterOptions]:
    home = Path(tempfile.mkdtemp(prefix="gp-alike-", dir="/tmp"))
    made = lambda: Connection(judge, around, None, lambda: None)  # noqa: E731 - used once
    server = await asyncio.get_running_loop().create_unix_server(made, home / "s")
    try:
        yield MilterOptions("own", f"unix:{home}/s")
    finally:
        server.close()
        shutil.rmtree(home)


async def ask(
    options: MilterOptions, mail: Mail, session: Session, auth: dict[str, bytes]
) -> StageResult | ChainResult:
    envelope = mail.envelope
    chain = Chain([options], log=Log(), macros={"j": b"mx", "daemon_name": b"mx"})
    try:
        await chain.connect(session)
        await chain.helo(session.helo)
        await chain.mail(envelope.sender, envelope.sender_args, auth)
        for each in envelope.recipients:
            await chain.rcpt(each.address, each.args)
        await chain.data()
        return await chain.message(replace(mail, session=session), "Q1")
    finally:
        await chain.close()


def on_the_wire(mail: Mail) -> Mail:
    """A socket carries no white space before a colon, and has no word for our separator."""
    bare = tuple(replace(each, gap=b"", hidden=False) for each in mail.headers)
    return replace(mail, headers=bare, separator=b"\r\n")


sent = some.mails.filter(lambda each: each.envelope.recipients)


def without_words(result: StageResult | ChainResult) -> StageResult | ChainResult:
    """A socket has no words for a filter's own reasons."""
    bare = tuple(
        replace(each, facts={key: said for key, said in each.facts.items() if key != "said"})
        for each in result.reasons
    )
    return replace(result, reasons=bare)


verdicts = st.sampled_from([Verdict.CONTINUE] * 4 + list(Verdict))
replies = st.sampled_from([None, Reply(550, "5.7.1", "no"), Reply(451, "4.7.1", "later\nperhaps")])
decisions = st.builds(
    Decision, verdict=verdicts, edits=st.lists(some.edits, max_size=5).map(tuple), reply=replies
)
needs = st.one_of(st.just(ALL), st.integers(0, int(ALL.value)).map(Need))
clients = st.sampled_from(
    [
        Client(b"far.example", Family.INET, b"192.0.2.7", 99),
        Client(b"near.example", Family.INET, b"10.0.0.1", 25),
        Client(b"six.example", Family.INET6, b"2001:db8::1", 1),
        Client(b"mapped.example", Family.INET6, b"::ffff:10.0.0.9", 1),
        Client(b"localhost"),
    ]
)
auths = st.sampled_from([{}, {"auth_authen": b"me", "auth_type": b"PLAIN"}])
hosts = st.builds(
    Options,
    trusted_networks=st.just((ip_network("10.0.0.0/8"),)),
    size_limit=st.sampled_from([40, 100_000]),
    header_limit=st.sampled_from([20, 100_000]),
    on_failure=st.sampled_from(OnFailure),
    shadow=st.booleans(),
    threads=st.just(0),
)


_FOLDED = Mail(
    envelope=Envelope(b"", (b"SIZE=1", b"RET=HDRS"), (Recipient(b""),)),
    headers=(HeaderField(b"Received", b"aa\r\n \r\n \t "),),
    body=BytesBody(b"\0" * 4),
)
"""Within 40 octets by the lines of a socket, which end in LF."""

_ONE = BytesBody(b"one\r\n")


@example(
    _FOLDED,
    Decision(),
    Need.HEADERS | Need.BODY,
    Client(b"far.example", Family.INET, b"192.0.2.7", 99),
    {},
    Options(size_limit=40, threads=0),
)
@example(
    Mail(envelope=Envelope(b"", (), (Recipient(b"u@example.net"),))),
    Decision(edits=(ReplaceBody(_ONE), AddHeader(b"X", b" 1"), ReplaceBody(_ONE))),
    ALL,
    Client(b"far.example", Family.INET, b"192.0.2.7", 99),
    {},
    Options(threads=0),
)
@settings(max_examples=300)
@given(sent, decisions, needs, clients, auths, hosts)
def test_alike(
    mail: Mail,
    decision: Decision,
    need: Need,
    client: Client,
    auth: dict[str, bytes],
    host: Options,
) -> None:
    around = Surroundings(Full(), lambda: "trace")
    filter_ = Said(decision, need)
    judge = Judge(filter_, host, around)
    session = Session(client, b"helo.example")

    async def both() -> list[StageResult | ChainResult]:
        async with behind_socket(judge, around) as behind:
            asked = await ask(behind, mail, session, auth)
        inside = replace(behind, address="filter:own", inside=Inside(judge, around))
        return [asked, await ask(inside, mail, session, auth)]

    one, other = run(both())
    assert one == without_words(other)
    assert len(filter_.shown) in (0, 2)
    if filter_.shown:
        assert filter_.shown[0] == on_the_wire(filter_.shown[1])
