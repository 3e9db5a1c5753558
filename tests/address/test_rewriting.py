"""What rewriting leaves alone: others' header fields, what a signature covers, who was meant."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milterd.core.mail import Envelope, HeaderField, Recipient
from smtpgw.address.canonical import Canonical
from smtpgw.address.extension import Delimiter
from smtpgw.address.find import Finder
from smtpgw.address.mapping import Mapper
from smtpgw.address.standard import Standard, StandardOptions
from smtpgw.address.virtual import Expansion, Virtual
from smtpgw.rewriting import RewriteOptions, Rewriter, signed, without_success
from smtpgw.tables.catalogue import open_maps
from smtpgw.tables.context import Context
from smtpgw.tables.maps import Maps

FIELDS = (
    HeaderField(b"DKIM-Signature", b" v=1; h=from:to :\r\n\tSubject; d=x; b=AA=="),
    HeaderField(b"From", b" Jo <old@x.example>"),
    HeaderField(b"TO", b" old@x.example"),
    HeaderField(b"Cc", b"\told@x.example,\r\n  b@y.example"),
)


def maps(text: str) -> Maps:
    return open_maps(f"inline:{{ {text} }}", Context())


def rewriter(*, signed_too: bool = False, domain: bytes = b"") -> Rewriter:
    async def ours(name: bytes) -> bool:
        return name == b"here.example"

    standard = Standard(StandardOptions(b"here.example"))
    mapper = Mapper(Finder(Delimiter(b"+"), ours), standard)
    options = RewriteOptions(
        canonical=Canonical(maps("old@x.example=new@x.example"), mapper),
        virtual=Virtual(
            maps("{ team@here.example = ann@here.example, bob@y.example } ann=ann@y.example"),
            mapper,
        ),
        always_bcc=b"archive@x.example",
        remote_header_rewrite_domain=domain,
        rewrite_signed_headers=signed_too,
    )
    return Rewriter(options, standard, mapper.finder)


def values(made: Rewriter, *, local: bool = True) -> list[bytes]:
    return [each.value for each in asyncio.run(made.headers(FIELDS, local=local))]


def test_what_a_signature_covers_stays() -> None:
    assert signed(FIELDS) == {b"from", b"to", b"subject"}
    before = [each.value for each in FIELDS]
    assert values(rewriter()) == [*before[:3], b"\tnew@x.example,\r\n  b@y.example"]
    assert values(rewriter(signed_too=True)) == [
        before[0], b" Jo <new@x.example>", b" new@x.example",
        b"\tnew@x.example,\r\n  b@y.example",
    ]  # fmt: skip


def test_the_header_of_others_stays_unless_it_has_a_domain_of_its_own() -> None:
    assert values(rewriter(), local=False) == [each.value for each in FIELDS]
    assert values(rewriter(domain=b"else.example"), local=False)[3].startswith(b"\tnew@")


def test_incomplete_addresses_are_completed_where_they_belong() -> None:
    field = (HeaderField(b"To", b" u, v@z"),)
    local = asyncio.run(rewriter().headers(field, local=True))
    other = asyncio.run(rewriter(domain=b"else.example").headers(field, local=False))
    assert [local[0].value, other[0].value] == [b" u@here.example, v@z", b" u@else.example, v@z"]


def test_recipients_are_expanded_once_each_and_say_who_was_meant() -> None:
    given = (
        Recipient(b"team@here.example", (b"NOTIFY=FAILURE",)),
        Recipient(b"bob@y.example"),
        Recipient(b"ann@here.example", (b"ORCPT=rfc822;me",)),
    )
    done = asyncio.run(rewriter().envelope(Envelope(b"old@x.example", (b"RET=HDRS",), given)))
    assert done.envelope.sender == b"new@x.example"
    assert done.envelope.sender_args == (b"RET=HDRS",)
    meant = b"ORCPT=rfc822;team@here.example"
    assert done.envelope.recipients == (
        Recipient(b"ann@y.example", (b"NOTIFY=FAILURE", meant)),
        Recipient(b"bob@y.example", (b"NOTIFY=FAILURE", meant)),
        Recipient(b"archive@x.example", (b"NOTIFY=NEVER",)),
    )
    assert [each.address for each in done.steps] == [
        b"old@x.example", b"", b"team@here.example", b"ann@here.example", b"ann@here.example",
    ]  # fmt: skip
    assert {each.rule for each in done.steps} == {
        "canonical_maps", "always_bcc", "virtual_alias_maps",
    }  # fmt: skip
    assert all(each.where for each in done.steps)


def test_who_was_expanded_into_several_hears_of_that_and_not_of_their_success() -> None:
    given = (
        Recipient(b"team@here.example", (b"NOTIFY=SUCCESS,DELAY",)),
        Recipient(b"ann@here.example", (b"NOTIFY=SUCCESS",)),
    )
    done = asyncio.run(rewriter().envelope(Envelope(b"s@x.example", (), given), copies=False))
    meant = b"ORCPT=rfc822;team@here.example"
    assert done.expanded == (Recipient(b"team@here.example", (b"NOTIFY=SUCCESS,DELAY", meant)),)
    assert done.envelope.recipients == (
        Recipient(b"ann@y.example", (b"NOTIFY=DELAY", meant)),
        Recipient(b"bob@y.example", (b"NOTIFY=DELAY", meant)),
    )
    only = without_success(Recipient(b"x", (b"notify=success", b"ORCPT=rfc822;y")))
    assert only.args == (b"NOTIFY=NEVER", b"ORCPT=rfc822;y")


def test_mail_of_our_own_keeps_its_sender_and_nobody_gets_a_copy() -> None:
    given = Envelope(b"old@x.example", (), (Recipient(b"old@x.example"),))
    done = asyncio.run(rewriter().envelope(given, sender=False, copies=False))
    assert done.envelope == Envelope(
        b"old@x.example", (), (Recipient(b"new@x.example", (b"ORCPT=rfc822;old@x.example",)),)
    )


def test_the_null_sender_stays() -> None:
    done = asyncio.run(rewriter().envelope(Envelope(b"", (), (Recipient(b"u@x.example"),))))
    assert done.envelope.sender == b""


def test_the_null_sender_has_no_blind_copies() -> None:
    made = rewriter()
    options = replace(made.options, always_bcc=b"", sender_bcc_maps=open_maps(
        "static:archive@x.example", Context()
    ))  # fmt: skip
    for sender, count in ((b"a@x.example", 2), (b"", 1)):
        envelope = Envelope(sender, (), (Recipient(b"u@y.example"),))
        found = asyncio.run(replace(made, options=options).envelope(envelope))
        assert len(found.envelope.recipients) == count


_SOME = st.sampled_from([
    b"", b"a", b"u@x.example", b"U@x.example", b"u@x.example.", b"u%x.example", b"x!u",
    b"@r.example:u@y.example", b'"u u"@x.example', b"u@short", b"\xc3\xa4@x.example", b"@",
])  # fmt: skip
_ENVELOPES = st.builds(
    Envelope,
    _SOME,
    st.just((b"SIZE=1",)),
    st.lists(st.builds(Recipient, _SOME, st.just((b"NOTIFY=SUCCESS",))), min_size=1).map(tuple),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_ENVELOPES, min_size=1, max_size=6), st.booleans())
def test_what_is_remembered_of_addresses_changes_nothing(
    envelopes: list[Envelope], ours: bool
) -> None:
    async def nowhere(_domain: bytes) -> bool:
        return False

    standard = Standard(StandardOptions(b"here.example", b"example"))
    finder = Finder(Delimiter(b"+"), nowhere)
    remembering = Rewriter(RewriteOptions(), standard, finder)
    for each in envelopes:
        anew = Rewriter(RewriteOptions(), standard, finder)
        found = asyncio.run(remembering.envelope(each, sender=not ours))
        assert found == asyncio.run(anew.envelope(each, sender=not ours))


_PARTS = st.sampled_from([
    b"u", b"u@x.example", b"Jo <u@x.example>", b"<u@x>", b'"a, b" <u@x.example>', b"", b",", b"<>",
    b"(c) u@x.example", b"g: u@x.example;", b"u@x.example,\r\n\tv", b"u@[192.0.2.1]", b"\xff",
])  # fmt: skip
_HEADERS = st.lists(
    st.builds(
        HeaderField,
        st.sampled_from([b"From", b"TO", b"cc", b"Subject", b"Reply-To", b"X" * 100, b"From \t"]),
        st.lists(_PARTS, max_size=3).map(lambda parts: b" " + b", ".join(parts)),
    ),
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(_HEADERS, st.booleans(), st.sampled_from([b"", b"else.example"]))
def test_a_header_that_is_known_to_stay_does(
    fields: list[HeaderField], local: bool, domain: bytes
) -> None:
    steps: list[Expansion] = []
    options = RewriteOptions(remote_header_rewrite_domain=domain)
    made = Rewriter(options, Standard(StandardOptions(b"here.example")), rewriter().finder)
    found = asyncio.run(made.headers(fields, local=local, told=steps.append))
    if made.header_stays(fields):
        assert (found, steps) == (tuple(fields), [])
    assert not rewriter().header_stays(fields), "a table is asked"


def test_nearly_every_header_is_known_to_stay() -> None:
    made = Rewriter(RewriteOptions(), Standard(StandardOptions(b"h")), rewriter().finder)
    usual = (
        b"Jo Doe <jo@x.example>",
        b"jo@x.example, Al <al@y.example>",
        b'"Doe, J" <j@x.example>',
    )
    assert all(made.header_stays([HeaderField(b"From", b" " + each)]) for each in usual)
    assert not made.header_stays([HeaderField(b"From", b" jo")])


def test_what_is_remembered_of_addresses_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpgw.rewriting.KNOWN", 10)
    made = Rewriter(RewriteOptions(), Standard(StandardOptions(b"h")), rewriter().finder)
    for number in range(50):
        envelope = Envelope(b"a@b.example", (), (Recipient(b"%d@x.example" % number),))
        assert asyncio.run(made.envelope(envelope)).envelope is not None
        assert len(made._stays) <= 13


def test_no_table_of_envelopes_is_passed_by() -> None:
    made, envelope = rewriter(), Envelope(b"a@z.example", (), (Recipient(b"b@z.example"),))
    for _ in range(2):
        found = asyncio.run(made.envelope(envelope)).envelope
        assert [each.address for each in found.recipients] == [b"b@z.example", b"archive@x.example"]


def test_each_remembered_address_gets_it_once() -> None:
    made = Rewriter(RewriteOptions(), Standard(StandardOptions(b"h")), rewriter().finder)

    def those(*names: bytes) -> list[bytes]:
        given_ = Envelope(b"a@b.example", (), tuple(map(Recipient, names)))
        return [each.address for each in asyncio.run(made.envelope(given_)).envelope.recipients]

    small, large = b"u@x.example", b"U@x.example"
    assert (those(small), those(large)) == ([small], [large])
    assert those(large, small) == [large]
