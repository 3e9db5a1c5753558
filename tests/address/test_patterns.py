"""Tables of patterns are asked for whole addresses, never for a part of one, as Postfix does:
`/^@x/` is nobody's address, whatever the order of keys says."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from smtpgw.tables.catalogue import open_table
from smtpgw.tables.context import Context
from smtpgw.tables.table import fixed
from tests.address.generated import Configuration, configuration
from tests.address.oracle import Case, ask, queued, told
from tests.peers.postfix import Postfix

pytestmark = pytest.mark.xdist_group("addresses")
RULES = "/^@x\\.example$/ part@y.test\n/^x\\.example$/ smtp:[part]\n/^u@x\\.example$/ ext@y.test\n"
ADDRESSES = (b"u@x.example", b"u+e@x.example", b"v@x.example")


def _given(spec: str) -> Configuration:
    given = configuration(random.Random(1))
    given.tables.clear()
    given.specs.clear()
    given.main |= {
        "recipient_delimiter": "+", "mydestination": "", "virtual_alias_domains": "",
        "relay_domains": "", "masquerade_domains": "", "always_bcc": "",
        "default_transport": "smtp", "relayhost": "",
    }  # fmt: skip
    given.specs |= {"virtual_alias_maps": spec, "transport_maps": spec}
    return given


@pytest.mark.parametrize(
    "kind", ["regexp:{}", "pcre:{}", "unionmap:{{regexp:{}, inline:{{a=b}}}}", "texthash:{}"]
)
def test_only_whole_addresses_are_asked_for(peer: Postfix, kind: str) -> None:
    file = peer.config / "patterns"
    file.write_text(RULES)
    given = _given(kind.format(file))
    told(peer, given, 40_000 + len(kind))
    ours = given.addresses(peer.config)
    resolver, rewriter = ours.resolver, ours.rewriter
    for address in ADDRESSES:
        said = ask(peer, request=b"resolve", sender=b"", address=address)
        found = asyncio.run(resolver.resolve(address))
        assert [found.transport, found.nexthop] == said[1:3]
    theirs = queued(peer, [Case(b"s@z.test", each, b"Subject: x\r\n") for each in ADDRESSES], ())
    for number, address in enumerate(ADDRESSES):
        envelope = asyncio.run(rewriter.envelope(given.envelope(b"s@z.test", address))).envelope
        assert [each.address for each in envelope.recipients] == theirs[number].recipients


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("inline:{a=b}", True),
        ("static:x", True),
        ("regexp:{{/x/ y}}", False),
        ("pcre:{{/x/ y}}", False),
        ("cidr:{{10.0.0.0/8 y}}", False),
        ("randmap:{a}", False),
        ("tcp:127.0.0.1:1", False),
        ("socketmap:inet:127.0.0.1:1:x", False),
        ("unionmap:{inline:{a=b}, static:x}", True),
        ("pipemap:{inline:{a=b}, regexp:{{/x/ y}}}", False),
        ("proxy:regexp:{{/x/ y}}", False),
    ],
)
def test_which_tables_are_of_patterns(spec: str, expected: bool, tmp_path: Path) -> None:
    assert fixed(open_table(spec, Context(base=tmp_path))) is expected


def test_no_stranger_says_where_mail_goes(tmp_path: Path) -> None:
    """transport(5): "disallows regular expression substitution of $1 etc."; the rule is skipped."""
    given = _given("pcre:{{/^u@(.*)$$/ smtp:[$$1]}, {/^u@x/ smtp:[here.example]}}")
    given.specs["sender_dependent_relayhost_maps"] = "regexp:{{/^s@(.*)$$/ [$$1]}}"
    given.specs["virtual_alias_maps"] = "pcre:{{/^u@(.*)$$/ v@$$1}}"
    ours = given.addresses(tmp_path)
    found = asyncio.run(ours.resolver.resolve(b"u@x.example", b"s@evil.example"))
    assert (found.transport, found.nexthop) == (b"smtp", b"[here.example]")
    other = asyncio.run(ours.resolver.resolve(b"w@y.example", b"s@evil.example"))
    assert other.nexthop == b"y.example"
    new = asyncio.run(ours.rewriter.envelope(given.envelope(b"", b"u@x.example"))).envelope
    assert [each.address for each in new.recipients] == [b"v@x.example"]
