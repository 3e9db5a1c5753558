"""Who may send, and to whom, through the running gateway: as the same settings make Postfix's
smtpd answer, and with every type of table."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import smtplib
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from milterd.base import logs
from milterd.core.mail import Client as Peer
from milterd.core.mail import Family
from smtpgw import config
from smtpgw.address.path import parse_path
from smtpgw.addresses import open_addresses
from tests.edge.policies import Policy
from tests.gateway.gateway import PATIENCE, Gateway, until
from tests.peers.postfix import Postfix, postfix
from tests.tables.postmap import Postmap
from tests.tables.scripted import scripted

pytestmark = pytest.mark.xdist_group("recipients")

HOST = "mx.host.example"
FILES = {
    "local": "u\nv+ext\nroot@local.example",
    "mailbox": "u@vm.example\nU2@VM.example\n@all.vm.example\nmany+known@vm.example",
    "relay": "u@relay.example\nu@sub.relay.example\n@any.relay.example",
    "alias": "va.example\nu@va.example\n@star.va.example\nalias@vm.example\nsomebody",
    "canonical": "old@local.example",
    "senders": "renamed@vm.example",
    "relocated": "moved@local.example\nmoved@vm.example\nMOVED@relay.example",
    "transport": (
        "err.example error:5.7.1 no mail here\nlater.example retry:\n"
        "late2.example retry:4.7.0 come back\nplain.example error:go away\n"
        "odd.example error:4.2.2 full\nu@nobody.example error:5.1.2 gone\n"
        "s0.example error:5.1.0 0\ns2.example error:5.1.2 2\ns3.example error:5.1.3 3\n"
        "s4.example error:5.1.4 4\ns5.example error:5.1.5 5\ns6.example error:5.1.6 6\n"
        "s7.example error:5.1.7 7\ns8.example retry:4.1.8 8\ns9.example retry:4.1.9 9\n"
        "empty.example error:\nu@gone.vm.example error:5.1.6 it moved"
    ),
}
SETTINGS = {
    "mydestination": "local.example, $myhostname, localhost",
    "virtual_alias_domains": "va.example, star.va.example",
    "virtual_mailbox_domains": "vm.example, all.vm.example, gone.vm.example",
    "relay_domains": (
        "relay.example, !no.relay.example, s0.example, s2.example, s3.example, s7.example,"
        "err.example, later.example, late2.example,"
        " plain.example, odd.example, empty.example, nobody.example"
    ),
    "recipient_delimiter": "+",
    "local_recipient_maps": "texthash:{place}/local, proxy:unix:passwd.byname",
    "virtual_mailbox_maps": "texthash:{place}/mailbox",
    "relay_recipient_maps": "texthash:{place}/relay",
    "virtual_alias_maps": "texthash:{place}/alias",
    "canonical_maps": "texthash:{place}/canonical",
    "sender_canonical_maps": "texthash:{place}/senders",
    "relocated_maps": "texthash:{place}/relocated",
    "transport_maps": "texthash:{place}/transport",
}
ADDRESSES = (
    "u@local.example", "U@LOCAL.example", "v@local.example", "v+ext@local.example",
    "u+any@local.example", "nobody@local.example", "daemon@local.example", "u@mx.host.example",
    "postmaster", "Postmaster", "postmaster@local.example", "MAILER-DAEMON@local.example",
    "double-bounce@local.example", "postmaster@vm.example", "postmaster@foreign.example",
    "old@local.example", "old+x@local.example", "moved@local.example",
    "u@vm.example", "u2@vm.example", "x@vm.example", "x@all.vm.example", "u+ext@vm.example",
    "many+known@vm.example", "many@vm.example", "alias@vm.example", "moved@vm.example",
    "renamed@vm.example", "u@gone.vm.example", "somebody@local.example",
    "u@va.example", "x@va.example", "x@star.va.example", "u+ext@va.example",
    "u@relay.example", "x@relay.example", "u@sub.relay.example", "x@sub.relay.example",
    "u@no.relay.example", "x@any.relay.example", "moved@relay.example", "u@RELAY.example.",
    "u@err.example", "u@later.example", "u@late2.example", "u@plain.example", "u@odd.example",
    "u@empty.example", "u@nobody.example", "x@nobody.example",
    "u@foreign.example", "u%foreign.example@local.example", "foreign.example!u@local.example",
    '"u@foreign.example"@local.example', "u%vm.example@local.example", "u%local.example@vm.example",
    '"a b"@local.example', '"u"@vm.example', "u@[127.0.0.1]", "u@[192.0.2.1]", "u@host",
    "u@localhost", "-x@local.example", "-x@foreign.example", "u@vm.example.foreign.example",
    "@foreign.example:u@vm.example", "u%-x@local.example", "u@1.2.3.4", "u%@local.example",
    "%@local.example", *(f"u@s{n}.example" for n in range(10)), '""@vm.example',
    '" "@local.example', "u!@local.example", "!u@vm.example",
)  # fmt: skip
"""Recipients; each is asked for from a stranger and from a client of ours."""
SENDERS = (
    "", "u@local.example", "nobody@local.example", "x@vm.example", "u@vm.example",
    "x@va.example", "u@va.example", "x@relay.example", "s@foreign.example", "renamed@vm.example",
    "old@local.example", "moved@local.example", "u@err.example", "u@later.example",
    "u@plain.example", "u@nobody.example", "u@gone.vm.example", "-x@foreign.example",
    "-x@local.example", "postmaster@local.example",
    *(f"u@s{n}.example" for n in range(10)), "unheard@local.example",
)  # fmt: skip

Answer = tuple[int, bytes]


@pytest.fixture(scope="module")
def tables() -> Iterator[Path]:
    """A directory with the files; Postfix's processes read them too."""
    place = Path(tempfile.mkdtemp(dir="/tmp", prefix="rcpt"))
    place.chmod(0o755)
    for name, text in FILES.items():
        lines = (line if " " in line else f"{line} x@local.example" for line in text.split("\n"))
        (place / name).write_text("".join(f"{line}\n" for line in lines))
    yield place
    shutil.rmtree(place)


def written(place: Path, **more: str) -> dict[str, str]:
    """The settings for main.cf."""
    return {k: v.format(place=place) for k, v in (SETTINGS | more).items()}


def toml(main: Mapping[str, str]) -> str:
    """The same for [smtpgw]; what smtpd refuses often it refuses at once."""
    words = {"yes": "true", "no": "false"}
    lines = [f"{key} = {words.get(value, repr(value))}" for key, value in main.items()]
    limits = (f"smtpd_{each}_error_limit = 1000" for each in ("hard", "soft"))
    return "\n".join((*lines, *limits, 'local_addresses = ["127.0.0.1"]'))


@contextlib.contextmanager
def started(main: Mapping[str, str]) -> Iterator[Gateway]:
    place = Path(tempfile.mkdtemp(dir="/tmp", prefix="gw"))
    one = Gateway(place)
    one.configure(toml(main))
    text = one.file.read_text().replace('mydestination = ["example.net"]\n', "", 1)
    one.file.write_text(text.replace('myhostname = "gw.example.net"\n', f'myhostname = "{HOST}"\n'))
    try:
        yield one.start()
    finally:
        one.kill()
        shutil.rmtree(place)


def heard(port: int, sender: str, recipients: tuple[str, ...], source: str = "") -> list[Answer]:
    """The answers to MAIL and to each RCPT."""
    where = (source, 0) if source else None
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE, source_address=where) as client:
        client.ehlo("client.example")
        found = [client.docmd("MAIL", f"FROM:<{sender}>")]
        if found[0][0] == 250:
            found += [client.docmd("RCPT", f"TO:<{each}>") for each in recipients]
        return found


PEER = {"smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
        "smtpd_recipient_restrictions": "", "myhostname": HOST, "smtpd_delay_reject": "yes",
        "append_dot_mydomain": "no", "smtpd_hard_error_limit": "1000",
        "smtpd_soft_error_limit": "1000"}  # fmt: skip


@pytest.mark.parametrize("own", [False, True], ids=["stranger", "own"])
@pytest.mark.parametrize("shown", ["yes", "no"])
def test_recipients_hear_what_postfix_says(tables: Path, own: bool, shown: str) -> None:
    main = written(
        tables,
        mynetworks="127.0.0.0/8" if own else "192.0.2.0/24",
        show_user_unknown_table_name=shown,
    )
    with (
        postfix(main | PEER) as peer,
        started(main) as ours,
    ):
        same(peer, ours, "s@foreign.example", ADDRESSES)


def same(peer: Postfix, ours: Gateway, sender: str, those: tuple[str, ...]) -> None:
    asked = ("MAIL", *those)
    nothing = [(0, b"")] * len(asked)  # where MAIL was refused
    told = dict(zip(asked, heard(ours.port, sender, those) + nothing, strict=False))
    theirs = dict(zip(asked, heard(peer.port, sender, those) + nothing, strict=False))
    other = {each: (told[each], theirs[each]) for each in asked if told[each] != theirs[each]}
    assert not other, (sender, other)


def test_senders_hear_what_postfix_says(tables: Path) -> None:
    main = written(tables, mynetworks="127.0.0.0/8", smtpd_reject_unlisted_sender="yes")
    with postfix(main | PEER) as peer, started(main) as ours:
        for sender in SENDERS:
            same(peer, ours, sender, ("u@vm.example", "postmaster", "x@vm.example"))


# -- every type of table -----------------------------------------------------------------


def files(place: Path) -> dict[str, str]:
    """One table of each type that needs nobody else, each with a recipient of its own name."""
    for name in ("texthash", "hash", "btree", "piped", "united", "chosen"):
        (place / name).write_text(f"{name}@vm.example x\n")
    (place / "lmdb").write_text("lmdb@vm.example x\n")
    assert Postmap(place).make(b"lmdb:%s" % os.fsencode(place / "lmdb")).status == 0
    (place / "regexp").write_text("/^regexp@vm\\.example$/ x\n")
    (place / "pcre").write_text("/^pcre(?=@vm)@vm\\.example$/ x\n")
    (place / "cidr").write_text("192.0.2.0/24 x\n")
    with sqlite3.connect(place / "rows.db") as database:
        database.executescript(
            "CREATE TABLE u (k TEXT); INSERT INTO u VALUES ('sqlite@vm.example')"
        )
    database.close()
    (place / "sqlite.cf").write_text(
        f"dbpath = {place}/rows.db\nquery = SELECT k FROM u WHERE k = '%s'\n"
    )
    return {
        "texthash": f"texthash:{place}/texthash",
        "hash": f"hash:{place}/hash",
        "btree": f"btree:{place}/btree",
        "lmdb": f"lmdb:{place}/lmdb",
        "regexp": f"regexp:{place}/regexp",
        "pcre": f"pcre:{place}/pcre",
        "inline": "inline:{ {inline@vm.example = x} }",
        "sqlite": f"sqlite:{place}/sqlite.cf",
        "piped": f"pipemap:{{texthash:{place}/piped, inline:{{x=y}}}}",
        "united": f"unionmap:{{texthash:{place}/united, inline:{{zz=y}}}}",
        "chosen": f"pipemap:{{texthash:{place}/chosen, randmap:{{a, b}}}}",
        "proxy": "proxy:inline:{ {proxy@vm.example = x} }",
        "environ": "environ:x",
    }


def test_every_type_of_table_may_list_recipients(place: Path) -> None:
    tables = files(place)
    main = {
        "mydestination": "local.example",
        "virtual_mailbox_domains": f"inline:{{vm.example=x}}, cidr:{place}/cidr",
        "virtual_mailbox_maps": ", ".join(tables.values()),
        "relay_domains": "relay.example",
        "relay_recipient_maps": "static:x",
        "local_recipient_maps": "unix:passwd.byname",
        "virtual_alias_domains": "",
        "mynetworks": "192.0.2.0/24",
    }
    known = tuple(f"{name}@vm.example" for name in tables if name != "environ")
    unknown = tuple(f"x{each}" for each in known)
    with started(main) as ours:
        answers = heard(ours.port, "s@foreign.example", known)[1:]
        assert dict(zip(known, answers, strict=True)) == dict.fromkeys(known, (250, b"2.1.5 Ok"))
        for each, said in zip(unknown, heard(ours.port, "", unknown)[1:], strict=True):
            text = (
                f"5.1.1 <{each}>: Recipient address rejected: User unknown in virtual mailbox table"
            )
            assert said == (550, text.encode())
        rest = ("any@relay.example", "root@local.example", "nobody.here@local.example")
        assert [code for code, _ in heard(ours.port, "", rest)[1:]] == [250, 250, 550]


def test_a_refusal_names_the_parameter_that_decided(place: Path) -> None:
    (place / "mailbox").write_text("u@vm.example x\n")
    main = {
        "virtual_mailbox_domains": "vm.example",
        "virtual_mailbox_maps": f"texthash:{place}/mailbox",
        "virtual_alias_domains": "",
        "mydestination": "local.example",
        "transport_maps": "inline:{ {err.example = error:5.7.1 no}, {vm.example = :} }",
        "relay_domains": "err.example",
        "mynetworks": "192.0.2.0/24",
    }
    with started(main) as ours:
        those = ("x@vm.example", "u@err.example", "u@foreign.example", "a%b@vm.example")
        heard(ours.port, "s@foreign.example", those)
        lines = until(lambda: found if len(found := ours.events("command")) >= 4 else [])
    facts = [(line["filter"], line["recipient"], " | ".join(line["decided"])) for line in lines]
    (rule, who, why), (_, _, error), (relay, _, foreign), (_, _, routed) = facts
    assert (rule, who) == ("reject_unlisted_recipient", "x@vm.example")
    assert why.startswith("virtual_mailbox_domains: vm.example | transport_maps: :")
    assert why.endswith(" | virtual_mailbox_maps: not there")
    assert "transport_maps: error:5.7.1 no (inline:" in error
    assert relay == "reject_unauth_destination"
    assert foreign.startswith("relay_domains: none of our domains")
    assert routed.startswith("allow_untrusted_routing: the local part says how to send on")


# -- tables that cannot answer -------------------------------------------------------------


NEEDED = {
    "virtual_mailbox_maps": "u@vm.example",
    "virtual_mailbox_domains": "u@foreign.example",
    "relay_domains": "u@foreign.example",
    "mydestination": "u@vm.example",
    "virtual_alias_maps": "x@vm.example",
    "canonical_maps": "x@vm.example",
    "recipient_canonical_maps": "x@vm.example",
    "transport_maps": "x@vm.example",
    "relocated_maps": "x@vm.example",
    "relay_recipient_maps": "u@relay.example",
    "local_recipient_maps": "u@local.example",
    "sender_dependent_relayhost_maps": "u@relay.example",
    "mynetworks": "u@vm.example",
}
"""Settings, and a recipient for whom each is asked."""
CLASSES = {
    "mydestination": "local.example",
    "virtual_mailbox_domains": "vm.example",
    "virtual_alias_domains": "",
    "relay_domains": "relay.example",
    "mynetworks": "192.0.2.0/24",
}


@pytest.mark.parametrize("name", NEEDED)
def test_what_a_table_cannot_answer_is_temporary(name: str) -> None:
    text = toml(CLASSES | {name: "fail:broken"})
    policy = Policy(f"[smtpgw]\n{text}\n[[smtpgw.listener]]\nname = 'mx'\naddress = ':25'\n")
    stranger = Peer(family=Family.INET, address=b"203.0.113.9")
    path, _ = parse_path(f"<{NEEDED[name]}>".encode())
    said = policy.refuses(stranger, path)
    assert said == f"451 4.3.0 <{NEEDED[name]}>: Temporary lookup failure"
    assert policy.refuses(stranger, parse_path(b"<postmaster>")[0]) == ""


def test_why_a_table_cannot_answer_stands_in_the_log_only() -> None:
    """Not unknown, not foreign: 451; and others go on."""
    with started(CLASSES | {"virtual_mailbox_maps": "tcp:127.0.0.1:1"}) as ours:
        those = ("x@vm.example", "postmaster", "u@local.example", "u@foreign.example")
        refused, *others = heard(ours.port, "s@x.example", those)[1:]
        line = until(lambda: ours.events("command", command="RCPT"))[0]
    assert refused == (451, b"4.3.0 <x@vm.example>: Temporary lookup failure")
    assert [code for code, _ in others] == [250, 250, 554]
    assert (line["filter"], line["outcome"]) == ("reject_unlisted_recipient", "tempfailed")
    assert "tcp:127.0.0.1:1" in line["decided"][0]


def test_networks_that_cannot_be_asked_lose_no_session() -> None:
    answers = {"says": b"400 not now\n"}
    with scripted(lambda _: answers["says"]) as server:
        main = {"mydestination": "local.example", "virtual_alias_domains": "",
                "mynetworks": f"192.0.2.0/24, tcp:127.0.0.1:{server.port}"}  # fmt: skip
        with started(main) as ours, ours.client() as client:
            assert client.mail("s@foreign.example")[0] == 250
            failure = (451, b"4.3.0 <u@local.example>: Temporary lookup failure")
            assert client.rcpt("u@local.example") == failure
            assert client.docmd("RCPT", "TO:<postmaster>")[0] == 250
            answers["says"] = b"200 ours\n"

            def known() -> bool:
                client.rset()
                return client.mail("s@x.example")[0] == client.rcpt("u@y.example")[0] == 250

            until(known, what="the networks in the same session")
            assert ours.told("mynetworks cannot be asked")


# -- networks --------------------------------------------------------------------------------


def test_networks_stand_in_tables_and_files_too(place: Path) -> None:
    (place / "networks.cidr").write_text(
        "# ours\n127.0.0.2 OK\n127.0.0.4/31 OK\n[2001:db8::]/32 OK\n2001:db9::/32 OK\n"
    )
    (place / "more").write_text("# comment\n127.0.0.6, 127.0.0.7\n  !127.0.0.8\n[::1]/128\n")
    (place / "hash").write_text("127.0.0.9 x\n")
    main = {
        "mydestination": "local.example",
        "virtual_alias_domains": "",
        "mynetworks": f"!127.0.0.5, cidr:{place}/networks.cidr, {place}/more, hash:{place}/hash,"
        " 127.0.0.8/32, [::1]/128, !127.0.0.10, 127.0.0.10/31",
    }
    wanted = {2: True, 3: False, 4: True, 5: False, 6: True, 7: True, 8: False, 9: True,
              10: False, 11: True, 1: False}  # fmt: skip
    with started(main) as ours:
        codes = {
            number: heard(ours.port, "", ("u@foreign.example",), f"127.0.0.{number}")[1][0]
            for number in wanted
        }
    assert codes == {number: 250 if own else 554 for number, own in wanted.items()}


def test_bracketed_networks_of_a_file_are_networks(place: Path) -> None:
    (place / "networks.cidr").write_text("[2001:db8::]/32 OK\n2001:db9::/32 OK\n")
    text = f'[smtpgw]\nmynetworks = "cidr:{place}/networks.cidr, [2001:dba::]/32, [2001:dbb::1]"\n'
    own = open_addresses(config.parse(text).smtpgw, logs.get("test")).mynetworks
    for address in ("2001:db9::1", "2001:dba::1", "2001:dbb::1"):
        assert asyncio.run(own.match(address.encode())), address
    assert not asyncio.run(own.match(b"2001:dbc::1"))
