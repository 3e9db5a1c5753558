"""Nothing leaves for a foreign domain, however it is asked for: the running gateway with one way
out, which takes everything, and every form of asking that is known; Postfix hears them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.gateway.gateway import until
from tests.reception import relays
from tests.reception.generated import FIXED, Tables, World
from tests.reception.names import ADDRESSES, FAULTS, SERVER, zone
from tests.reception.netns import Namespace, name_server, namespace
from tests.reception.oracle import oracle
from tests.reception.ours import Ours, ours
from tests.reception.relays import BEFORE, FOREIGN, RECIPIENTS, SENDERS, WayOut, dialogue, way_out
from tests.reception.talk import PATIENCE, Said, held

THEIRS, MINE, SUBMISSION, LMTP, OUT = 2700, 3700, 3701, 3702, 2699
STRANGER, OWN = "192.0.2.1", "192.0.2.2"
pytestmark = [pytest.mark.xdist_group("reception"), pytest.mark.timeout(300)]


@dataclass
class Door:
    """A running gateway, a Postfix beside it, and where all that leaves goes."""

    space: Namespace
    gateway: Ours
    out: WayOut

    def say(self, client: str, port: int, commands: list[str]) -> list[Said]:
        return held(self.space.connect(client, (SERVER, port), PATIENCE), commands)


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with _opened() as one:
        yield one


@contextmanager
def _opened() -> Iterator[Door]:
    """Our own domains' mail stays here; all other mail has the one way out."""
    main = FIXED | {
        "mydestination": "local.example, $myhostname", "relay_domains": "relay.example",
        "virtual_alias_domains": "va.example", "virtual_mailbox_domains": "vm.example",
        "virtual_alias_maps": "inline:{w@va.example=u@local.example}",
        "virtual_mailbox_maps": "inline:{u@vm.example=x}", "local_recipient_maps": "",
        "relay_recipient_maps": "", "default_transport": f"smtp:[{SERVER}]:{OUT}",
        "relay_transport": f"smtp:[{SERVER}]:{OUT}",
    }  # fmt: skip
    extra = (
        f'[[smtpgw.listener]]\nname = "sub"\naddress = "{SERVER}:{SUBMISSION}"\n'
        'profile = "submission"\nsmtpd_tls_security_level = "none"\n'
        f'[[smtpgw.listener]]\nname = "store"\naddress = "{SERVER}:{LMTP}"\nprofile = "lmtp"\n'
    )
    relay = {"smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination"}
    given = World(main, {}, [{}], Tables(), extra, relay)
    with (
        namespace("gatepost-relay", ADDRESSES) as space,
        name_server(space, zone(), FAULTS),
        way_out(space, SERVER, OUT) as out,
        oracle(space, given, [THEIRS]),
        ours(space, given, [MINE]) as mine,
    ):
        yield Door(space, mine, out)


def _foreign(out: WayOut) -> list[bytes]:
    """What left for anybody but our relay domain and the one that proves that mail can leave."""
    return [
        each
        for each in out.recipients
        if not each.lower().rstrip(b">").endswith((b"@relay.example", b"@proof.example"))
    ]


def _proved(door: Door, port: int) -> None:
    """Mail of our own goes out, behind all that was tried: what was taken has left by then."""
    before = len([each for each in door.out.recipients if b"proof" in each])
    commands = ["EHLO own.local.example", "MAIL FROM:<u@local.example>",
                "RCPT TO:<x@proof.example>", "DATA", "QUIT"]  # fmt: skip
    said = door.say(OWN, port, commands)
    assert said[-2].code == 250, said
    until(lambda: len([each for each in door.out.recipients if b"proof" in each]) > before)


@pytest.mark.parametrize("sender", SENDERS)
def test_nobody_elses_mail_is_carried(
    door: Door, sender: str, record_property: Callable[[str, object], None]
) -> None:
    """Each recipient from each sender; and Postfix gives the same codes, but where listed."""
    mine = _each(door.say(STRANGER, MINE, dialogue(sender, RECIPIENTS)))
    theirs = _each(door.say(STRANGER, THEIRS, dialogue(sender, RECIPIENTS)))
    assert len(mine) == len(theirs) == len(RECIPIENTS)
    _proved(door, MINE)
    _proved(door, THEIRS)
    assert _foreign(door.out) == []
    differ = {
        form: (own, other)
        for form, own, other in zip(RECIPIENTS, mine, theirs, strict=True)
        if own != other and not _explained(form, own, other)
    }
    record_property("measured", f"{sender}: {len(RECIPIENTS)} recipients, {len(differ)} differ")
    assert differ == {}


def _explained(form: str, own: tuple[int, str], other: tuple[int, str]) -> bool:
    """docs/restrictions-differences.md: what is no path of RFC 5321 is 501 here, an address without
    a domain among it, where Postfix reads what it can and then refuses to carry it."""
    return own[0] == 501 and (other[0] in (554, 555) or form == "<u>")


def _each(said: list[Said]) -> list[tuple[int, str]]:
    """The answer to each RCPT."""
    found, rest = [], said[2:]
    while len(rest) > 3:
        # RSET, MAIL, RCPT, DATA and, if that was granted, the message
        mail, rcpt, data = rest[1:4]
        found.append(rcpt.codes if mail.code == 250 else mail.codes)
        rest = rest[5:] if data.code == 354 else rest[4:]
    return found


@pytest.mark.parametrize("what", BEFORE)
@pytest.mark.parametrize("port", [MINE, SUBMISSION], ids=["mx", "submission"])
def test_nothing_said_before_opens_the_door(door: Door, what: str, port: int) -> None:
    """The plain forms, after whatever else was tried."""
    forms = (
        "<u@evil.example>",
        "<u%evil.example@local.example>",
        "<@local.example:u@evil.example>",
    )
    said = door.say(STRANGER, port, dialogue("<s@good.example>", forms, tuple(BEFORE[what])))
    assert said
    _proved(door, MINE)
    assert _foreign(door.out) == []


def test_nothing_leaves_from_a_submission_listener(door: Door) -> None:
    """Strangers get nothing out there at all."""
    for sender in SENDERS:
        taken = _taken(door.say(STRANGER, SUBMISSION, dialogue(sender, RECIPIENTS)))
        assert taken in ([], ["<Postmaster>"])  # who is here, and stays here
    _proved(door, MINE)
    assert _foreign(door.out) == []


def test_nothing_leaves_from_an_lmtp_listener(door: Door) -> None:
    """Strangers get there what they get at an mx listener: mail to our own."""
    for sender in SENDERS:
        asked = dialogue(sender, RECIPIENTS)
        taken = _taken(door.say(STRANGER, MINE, asked))
        assert _taken(door.say(STRANGER, LMTP, ["LHLO client.test", *asked[1:]])) == taken
    _proved(door, MINE)
    assert _foreign(door.out) == []


def _taken(said: list[Said]) -> list[str]:
    each = zip(RECIPIENTS, _each(said), strict=True)
    return [form for form, answer in each if answer[0] < 400]


def test_there_are_enough_forms() -> None:
    assert len(set(RECIPIENTS)) == len(RECIPIENTS) >= 60
    assert any(FOREIGN in each for each in RECIPIENTS)
    assert relays.LITERAL == SERVER
