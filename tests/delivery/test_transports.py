"""From settings to destinations: transports, their nexthops, and whose limits count."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from milterd.base import logs, settings
from milterd.base.toml_file import ConfigError
from milterd.core.mail import Envelope, Mail, Recipient
from smtpgw import wiring
from smtpgw.addresses import open_addresses
from smtpgw.config import GatewaySettings, Smtpgw
from smtpgw.delivery.fixed import Fixed
from smtpgw.delivery.outcome import Deferred, Delivered, Destination, Failed, Held
from smtpgw.delivery.pool import hop_of
from smtpgw.intake import Intake
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Store
from smtpgw.readdress import AddressRules
from smtpgw.routes import TOGETHER
from tests.delivery.peer import Peer, job, listening, road
from tests.queue.support import FakeClock, message, run, until

_SLOW = 'default_transport = "slow"\n[smtpgw.services.slow]\n'


def given(text: str) -> Smtpgw:
    head = '[smtpgw]\nmyhostname = "gw.example"\nmydestination = ["ours.example"]\n'
    if "[smtpgw.queue]" not in text:
        text += '\n[smtpgw.queue]\ndirectory = "/nonexistent"\n'
    return settings.parse(head + text, GatewaySettings).smtpgw


def where(text: str, address: bytes = b"u@far.example", sender: bytes = b"") -> Destination:
    addresses = open_addresses(given(text), logs.get("test"))
    return run(addresses.routes.route(address, sender))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "smtp:far.example"),
        ('relayhost = "[relay.example]:587"', "smtp:[relay.example]:587"),
        ('default_transport = "relay"', "relay:far.example"),
        ('default_transport = "smtp:[a.example]"\nrelayhost = "b"', "smtp:[a.example]"),
        ('default_transport = "lmtp:unix:/run/l"', "lmtp:unix:/run/l"),
        ('default_transport = "lmtp"', "lmtp:far.example"),
        ('default_transport = "lmtp:[h.example]"', "lmtp:[h.example]"),
        ('default_transport = "virtual"', "lmtp:unix:/run/dovecot/lmtp"),
        ('default_transport = "local"\nmailbox_transport = "maildir:/m"', "maildir:/m"),
        ('default_transport = "discard:"', "discard:far.example"),
        ('default_transport = "error:5.7.1 go away"', "error:5.7.1 go away"),
        ('default_transport = "retry:4.7.1 later"', "retry:4.7.1 later"),
        ('default_transport = "hold:somebody looks"', "hold:somebody looks"),
        # What nobody can deliver to waits, and says why.
        ('default_transport = "uucp:x"', "retry:4.3.5 no transport is called 'uucp'"),
        ('relayhost = "smtp:[h.example]:25"', "retry:4.3.5 transport smtp: 'smtp:[h.example]:25'"),
        ('default_transport = "lmtp:unix:"', "retry:4.3.5 transport lmtp: 'unix:'"),
        ('default_transport = "lmtp:a b"', "retry:4.3.5 transport lmtp: 'a b': expected unix:PATH"),
        ('default_transport = "maildir"', "retry:4.3.5 transport maildir: 'far.example'"),
        # A transport of its own name.
        ('[smtpgw.services.slow]\ndeliver = "smtp"', "smtp:far.example"),
        (
            'default_transport = "slow"\n[smtpgw.services.slow]\ndeliver = "smtp"',
            "slow:far.example",
        ),
        (
            'default_transport = "slow"\n[smtpgw.services.slow]\ndeliver = "lmtp:unix:/s"',
            "slow:unix:/s",
        ),
        ("[smtpgw.services.smtp]\ndestination_recipient_limit = 2", "smtp:far.example"),
        # One recipient in each delivery: its limits are for each recipient (postconf(5)).
        (
            "[smtpgw.services.smtp]\ndestination_recipient_limit = 1",
            "smtp:far.example u@far.example",
        ),
        (
            "[smtpgw.delivery]\ndefault_destination_recipient_limit = 1",
            "smtp:far.example u@far.example",
        ),
    ],
)
def test_where_mail_for_others_goes(text: str, found: str) -> None:
    assert str(where(text)).startswith(found)


def test_our_own_can_be_nobodys() -> None:
    text = 'local_transport = "error:local mail delivery is disabled"'
    assert str(where(text, b"u@ours.example")) == "error:local mail delivery is disabled"
    assert str(where(text)) == "smtp:far.example"
    assert str(where('virtual_transport = "smtp"', b"u@ours.example")).startswith("lmtp:unix:")


@pytest.mark.parametrize(
    ("nexthop", "host", "address", "port"),
    [
        ("unix:/run/l", "", "/run/l", 0),
        ("unix:private/dovecot-lmtp", "", "/var/spool/postfix/private/dovecot-lmtp", 0),
        ("inet:h.example:2424", "h.example", "h.example", 2424),
        ("h.example", "h.example", "h.example", 24),
        ("[192.0.2.1]", "192.0.2.1", "192.0.2.1", 24),
        ("[192.0.2.1]:2424", "192.0.2.1", "192.0.2.1", 2424),
    ],
)
def test_a_nexthop_of_lmtp(nexthop: str, host: str, address: str, port: int) -> None:
    found = where(f'default_transport = "lmtp:{nexthop}"')
    hop = hop_of(found)
    assert (hop.host, hop.address, hop.port, hop.lmtp) == (host, address, port, True)


@pytest.mark.parametrize(
    ("row", "words"),
    [('deliver = "ftp"', "one of smtp"), ("", "one of smtp"), ('deliver = "lmtp:a b"', "expected")],
)
def test_a_row_that_delivers_by_nothing_is_found(row: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_addresses(given(f"[smtpgw.services.slow]\n{row}"), logs.get("test"))


def test_each_transport_has_its_limits() -> None:
    limits = wiring.courier(
        given(
            """
[smtpgw.delivery]
default_destination_concurrency_limit = 9
default_destination_rate_delay = "1s"
default_transport_rate_delay = "3s"
[smtpgw.services.slow]
deliver = "smtp"
destination_rate_delay = "2s"
transport_rate_delay = 0
[smtpgw.services.few]
deliver = "smtp"
destination_rate_delay = 0
destination_concurrency_limit = 3
initial_destination_concurrency = 2
destination_recipient_limit = 7
"""
        )
    ).limits
    slow, few, other = (limits.of(f"{name}:x") for name in ("slow", "few", "relay"))
    assert (slow.destination_rate_delay, slow.transport_rate_delay) == (2.0, 0.0)
    assert (slow.windows.limit, slow.windows.initial_destination_concurrency) == (1, 1)
    assert (few.windows.limit, few.windows.initial_destination_concurrency) == (3, 2)
    assert (few.recipient_limit, few.destination_rate_delay) == (7, 0.0)
    assert (other.recipient_limit, other.destination_rate_delay) == (50, 1.0)
    assert (other.transport_rate_delay, other.windows.limit) == (3.0, 1)


def test_each_recipient_has_a_site_of_its_own_only_where_limits_are_its_own() -> None:
    async def scenario() -> None:
        for limit, site in ((1, ""), (2, "smtp:far.example")):
            text = f"[smtpgw.services.smtp]\ndestination_recipient_limit = {limit}"
            routes = open_addresses(given(text), logs.get("test")).routes
            assert await routes.site([b"u@far.example", b"v@far.example"]) == site
            assert await routes.site([b"u@far.example", b"u@other.example"]) == ""
        assert await routes.site([]) == ""

    run(scenario())


_ADDRESSES = (
    b"u@far.example",
    b'"u"@far.example',
    b"U@Far.example",
    b"u",
    b"u@",
    b"@",
    b"a%b@x.net",
)


@pytest.mark.parametrize(
    ("text", "remembered"),
    [
        ("", True),
        ("[smtpgw.services.smtp]\ndestination_recipient_limit = 1", True),
        ('transport_maps = ["inline:{far.example=lmtp:unix:/l}"]', True),
        ('sender_dependent_relayhost_maps = ["inline:{a@s.net=[h.net]}"]', True),
        ('transport_maps = ["tcp:127.0.0.1:9"]', False),
    ],
)
def test_a_mail_for_which_nothing_is_asked_is_queued_as_if_all_were(
    text: str, remembered: bool
) -> None:
    async def scenario() -> None:
        addresses = open_addresses(given(text), logs.get("test"))
        short, long = (Intake(cast("Store", None), QueueClock(FakeClock())) for _ in range(2))
        for each in (short, long):
            each.rules, each.site_of = AddressRules(addresses), addresses.routes.site
        short.site_now = addresses.routes.site_now
        for address in _ADDRESSES:
            known = []
            for sender in (b"a@s.net", b"b@s.net", b"a@s.net", b""):
                envelope = Envelope(sender, (), (Recipient(address),))
                known.append(addresses.routes.site_now(envelope))
                for filtered in ("", "smtp:[f.net]"):
                    made = [
                        await each.made(Mail(envelope=envelope), queue_id="q", filtered=filtered)
                        for each in (short, long)
                    ]
                    assert made[0] == made[1]
            if address == _ADDRESSES[0]:
                assert known[0] is None, "nobody was asked before"
                assert (known[2] is not None) is remembered
        two = Envelope(b"", (), (Recipient(b"u@far.example"), Recipient(b"v@far.example")))
        assert addresses.routes.site_now(two) is None
        await addresses.close()

    run(scenario())


@pytest.mark.parametrize(
    ("transport", "kind", "enhanced"),
    [
        ("error:5.7.1 no", Failed, "5.7.1"),
        ("error:4.7.1 no", Failed, "5.7.1"),
        ("error:no", Failed, "5.0.0"),
        ("retry:4.7.1 no", Deferred, "4.7.1"),
        ("retry:no", Deferred, "4.0.0"),
        ("hold:no", Held, "4.0.0"),
        ("discard:no", Delivered, "2.0.0"),
    ],
)
def test_what_is_known_beforehand(transport: str, kind: type, enhanced: str) -> None:
    """As error(8) does: its service name says whether mail is returned or kept."""
    found = where(f'default_transport = "{transport}"')
    (outcome,) = run(Fixed().deliver(found, job()))
    assert (type(outcome), outcome.enhanced) == (kind, enhanced)
    assert outcome.text.endswith("no")


def test_a_mail_for_a_thousand_leaves_others_their_turn(tmp_path: Path) -> None:
    """Also where every table answers at once."""

    async def scenario() -> None:
        peer = Peer()
        async with listening(peer) as lmtp, road(tmp_path, lmtp) as way:
            rcpts = tuple(b"u%d@example.net" % each for each in range(1000))
            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    await asyncio.sleep(0)
                    turns += 1

            counting = asyncio.ensure_future(count())
            site = await way.intake.site_of(rcpts, b"")
            assert (site, turns >= 1000 // TOGETHER - 1) == (str(lmtp), True)
            counting.cancel()
            await way.accept(message(rcpts=rcpts))
            await until(lambda: len(way.seen) == 1000)
            assert peer.verbs().count("DATA") == 20
            await way.wait_empty()
            assert (await way.store.counts()).get(MailState.DEFERRED, 0) == 0

    run(scenario())
