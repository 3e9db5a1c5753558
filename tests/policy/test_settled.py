"""Recipients let pass once: let pass again, in that session and in others of the client, without
anybody being asked, as long as nothing that was gone by has changed."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from milterd.base import logs
from milterd.core.mail import Client, Family
from smtpgw.address.params import MailParams
from smtpgw.address.path import Path as Address
from smtpgw.address.path import parse_path
from smtpgw.admission import Admission
from smtpgw.edge.names import NameStatus, PeerName
from smtpgw.edge.road import Connection, Hello, Login
from smtpgw.policy.facts import State
from smtpgw.policy.ports import Ports
from smtpgw.policy.settled import MOST
from tests.policy.site import policy

CLIENT = Client(b"mail.good.example", Family.INET, b"192.0.2.77", 4711)
NAMED = PeerName(CLIENT.name, CLIENT.name, NameStatus.OK, NameStatus.OK)
CONNECTION = Connection("mx", CLIENT, session="s1", peer=NAMED)
PLAIN = MailParams()


def address(text: bytes) -> Address:
    return parse_path(b"<%b>" % text, null=True)[0]


US, THEM = address(b"u@local.example"), address(b"s@good.example")


async def admission(
    text: str = "", like: Admission | None = None, connection: Connection = CONNECTION
) -> Admission:
    """A session, by the policy of another one."""
    lists = policy(text) if like is None else like._policy
    made = Admission(lists, Ports(), connection, logs.get("x"))
    await made.connect()
    await made.helo(Hello(b"mail.good.example", esmtp=True))
    return made


async def mailed(made: Admission, sender: Address = THEM, recipient: Address = US) -> str:
    """How a mail goes through, in words."""
    await made.mail(sender, PLAIN, "q")
    refusal = await made.rcpt(recipient)
    made.reset()
    return refusal.reply.text if refusal is not None else "taken"


def again(made: Admission, sender: Address = THEM, recipient: Address = US) -> bool:
    """Whether the same mail needs nobody to be asked."""
    if not made.passes_mail(sender):
        return False
    made.begun(sender, PLAIN, "q2")
    found = made.passed(recipient)
    made.reset()
    return found is not None


def kept(made: Admission) -> int:
    """How many decisions are kept."""
    return len(made._policy.passed._found)


def at_hand(made: Admission, sender: Address = THEM) -> bool:
    """Whether the decision about a recipient is one of those."""
    made.begun(sender, PLAIN, "q3")
    found = made._policy.passed.now()
    made_out = found is not None and made._key(US.meant) in found
    made.reset()
    return made_out


def test_a_recipient_is_let_pass_again_with_the_same_record() -> None:
    async def session() -> None:
        made = await admission()
        await made.mail(THEM, PLAIN, "q1")
        assert await made.rcpt(US) is None
        made.accepted()
        (first,), facts = made.records, made.facts
        made.reset()
        assert made.passes_mail(THEM)
        made.begun(THEM, PLAIN, "q1")
        passed = made.passed(US)
        assert passed is not None
        made.pass_again(US, passed)
        (second,) = made.records
        assert [row[:-1] for row in second.rows] == [row[:-1] for row in first.rows]
        assert second.rows
        assert {row[-1] for row in second.rows} == {0.0}, "nothing was asked, so it took no time"
        assert made.facts == facts
        assert made.facts.recipient == b"u@local.example"
        assert made.facts.recipients == 1
        assert made.facts.state is State.CONNECT
        assert made.passed(address(b"u@elsewhere.example")) is None

    asyncio.run(session())


def test_what_needs_no_waiting_is_known_at_once() -> None:
    async def session() -> None:
        made, usual = await admission(), await admission()
        await usual.mail(THEM, PLAIN, "q1")
        assert await usual.rcpt(US) is None
        usual.accepted()
        assert made.passes_mail(THEM)
        made.begun(THEM, PLAIN, "q1")
        passed = made.passed(US)
        assert passed is not None
        assert made.records == [], "nothing is noted before it is used"
        made.pass_again(US, passed)
        (one,), (other,) = made.records, usual.records
        assert [row[:-1] for row in one.rows] == [row[:-1] for row in other.rows]
        assert all(row[-1] > 0 for row in one.rows)
        assert made.facts == usual.facts

    asyncio.run(session())


@pytest.mark.parametrize(
    "lists",
    [
        'smtpd_sender_restrictions = ["check_sender_access inline:{ {x.example = REJECT} }"]',
        'smtpd_client_restrictions = ["reject_unknown_client_hostname"]',
        'smtpd_recipient_restrictions = ["reject_unauth_pipelining"]',
        'smtpd_recipient_restrictions = ["reject_multi_recipient_bounce"]',
        "smtpd_delay_reject = false",
    ],
)
def test_where_more_than_client_and_envelope_counts_it_is_asked_each_time(lists: str) -> None:
    async def session() -> None:
        made = await admission(lists)
        assert await mailed(made) == "taken"
        assert not again(made)

    asyncio.run(session())


def test_a_refusal_is_not_kept() -> None:
    async def session() -> None:
        made = await admission()
        elsewhere = address(b"u@elsewhere.example")
        for _ in range(2):
            assert "Relay access denied" in await mailed(made, recipient=elsewhere)
            assert not again(made, recipient=elsewhere)

    asyncio.run(session())


def test_who_says_another_name_or_logs_in_is_another() -> None:
    async def session() -> None:
        made = await admission('smtpd_helo_restrictions = ["reject_non_fqdn_helo_hostname"]')
        assert await mailed(made) == "taken"
        assert again(made)
        await made.helo(Hello(b"short", esmtp=True))
        assert not again(made)
        assert "need fully-qualified hostname" in await mailed(made)
        await made.helo(Hello(b"mail.good.example", esmtp=True))
        assert await mailed(made) == "taken"
        assert again(made)
        assert kept(made) == 1
        assert at_hand(made)
        made.login(Login(b"joe"))
        assert not at_hand(made)

    asyncio.run(session())


def test_another_session_of_the_client_goes_by_it_too() -> None:
    async def session() -> None:
        first = await admission()
        assert await mailed(first) == "taken"
        other = replace(CONNECTION, session="s2", client=replace(CLIENT, port=815))
        second = await admission(like=first, connection=other)
        second.begun(THEM, PLAIN, "q2")
        passed = second.passed(US)
        assert passed is not None
        second.pass_again(US, passed)
        (record,) = second.records
        assert {row[-1] for row in record.rows} == {0.0}, "nobody was asked"
        assert second.facts.session == "s2"
        assert second.facts.client.port == 815
        assert kept(second) == 1

    asyncio.run(session())


@pytest.mark.parametrize(
    "other",
    [
        replace(CONNECTION, client=replace(CLIENT, address=b"192.0.2.78")),
        replace(CONNECTION, local_address=b"192.0.2.1"),
        replace(CONNECTION, client=Client(CLIENT.name, Family.UNIX)),
    ],
)
def test_another_client_or_address_of_ours_is_another(other: Connection) -> None:
    async def session() -> None:
        first = await admission()
        assert await mailed(first) == "taken"
        assert at_hand(first)
        assert not at_hand(await admission(like=first, connection=other))

    asyncio.run(session())


def test_what_a_session_knew_of_mynetworks_is_no_other_sessions_right() -> None:
    async def session() -> None:
        trusted = await admission()
        trusted._review._memory.trusted[CLIENT.address] = "192.0.2.0/24"
        elsewhere = address(b"u@elsewhere.example")
        assert await mailed(trusted, recipient=elsewhere) == "taken"
        assert again(trusted, recipient=elsewhere)
        after = await admission(like=trusted)
        assert "Relay access denied" in await mailed(after, recipient=elsewhere)
        assert not again(after, recipient=elsewhere)

    asyncio.run(session())


def test_a_table_that_changes_is_asked_again(tmp_path: Path) -> None:
    table = tmp_path / "recipients"
    table.write_text("u@relay.example ok\n")
    whom = address(b"u@relay.example")

    async def session() -> None:
        made = await admission(f'relay_recipient_maps = ["texthash:{table}"]')
        assert await mailed(made, recipient=whom) == "taken"
        assert again(made, recipient=whom)
        table.write_text("somebody@relay.example ok\n")
        status = table.stat()
        os.utime(table, ns=(status.st_atime_ns, status.st_mtime_ns + 5_000_000_000))
        async with asyncio.timeout(20):
            while again(made, recipient=whom):  # noqa: ASYNC110 - a table looks at its file now and then
                await asyncio.sleep(0.05)
        assert "User unknown in relay recipient table" in await mailed(made, recipient=whom)

    asyncio.run(session())


def test_so_many_are_kept() -> None:
    async def session() -> None:
        made = await admission()
        those = [address(b"u%d@local.example" % n) for n in range(MOST * 2 + 3)]
        for each in those:
            assert await mailed(made, recipient=each) == "taken"
            assert 0 < kept(made) <= MOST

    asyncio.run(session())
