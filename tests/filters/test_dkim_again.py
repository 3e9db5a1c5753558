"""What is remembered from mail to mail changes no signature."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from milterd.core.mail import BytesBody, HeaderField, Mail
from milterd.filters import dkim_sign
from milterd.filters.dkim_choice import Signer
from milterd.filters.dkim_lists import OVERSIGN, SIGN, lists
from milterd.filters.dkim_sign import COLUMNS, COMMON, FIELD, Manner, signatures
from milterd.filters.mailbox import AddressError, mailboxes
from milterd.ports.keys import Ed25519Key
from milterd.signed.canonical import Header
from milterd.signed.dkim_field import read
from milterd.signed.dkim_hash import covered, digest, hash_body

PRIVATE = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
BOTH = lists(OVERSIGN, SIGN, ())
NAMES = (b"From", b"TO", b"Subject", b"Received", b"received", b"X-Other", b"List-Id", b"Date")

fields = st.builds(
    HeaderField,
    st.sampled_from(NAMES),
    st.sampled_from((b" one", b" two  words", b"\ta\r\n\tfold ", b"", b" %b%d")),
    hidden=st.sampled_from((False, False, False, True)),
)
mails = st.builds(
    lambda more, body: Mail(headers=(HeaderField(b"From", b" a@b.example"), *more), body=body),
    st.lists(fields, max_size=8),
    st.builds(BytesBody, st.sampled_from((b"", b"text\r\n"))),
)
manners = st.builds(
    lambda form, lifetime: Manner(*BOTH, *form, lifetime),
    st.sampled_from((("relaxed", "relaxed"), ("simple", "simple"))),
    st.sampled_from((0, 3600)),
)
signers = st.builds(
    lambda domain, selector, user: Signer(
        domain, selector, Ed25519Key(PRIVATE), f"{user}@{domain}" if user is not None else ""
    ),
    st.sampled_from(("b.example", "a-much-longer-domain-than-that.of.b.example")),
    st.sampled_from(("s", "t2026")),
    st.sampled_from((None, "", "50%d")),
)


@given(
    those=st.lists(
        st.tuples(mails, signers, manners, st.sampled_from((999_999_999, 1_763_800_000))),
        min_size=2,
        max_size=6,
    )
)
@settings(max_examples=150, deadline=None)
def test_each_mail_has_a_signature_of_its_own(
    those: list[tuple[Mail, Signer, Manner, int]],
) -> None:
    """Each covers its own mail, and is what it would be if nothing had been remembered."""
    found = [signatures(mail, [who], manner, now) for mail, who, manner, now in those]
    for (mail, who, manner, now), made in zip(those, found, strict=True):
        dkim_sign._plan.cache_clear()
        dkim_sign._frame.cache_clear()
        assert signatures(mail, [who], manner, now) == made
        field = HeaderField(FIELD, made[0][2])
        said = read(field)
        assert (said.domain, said.selector, said.made) == (who.domain, who.selector, now)
        assert said.expires == (now + manner.lifetime if manner.lifetime else None)
        assert said.identity == (who.identity or f"@{who.domain}").encode()
        assert said.body_hash == hash_body(mail.body, manner.body_form).whole
        seen = covered(Header(mail.visible()), said.names, manner.header_form)
        PRIVATE.public_key().verify(said.signature, digest(seen, field, manner.header_form))
        assert all(len(line) <= COLUMNS + 8 for line in field.raw.split(b"\r\n"))


def test_only_what_is_small_is_remembered_and_not_for_ever() -> None:
    who = Signer("b.example", "s", Ed25519Key(PRIVATE), "")
    long = tuple(HeaderField(b"X-%d" % each, b" x") for each in range(COMMON))
    before = dkim_sign._plan.cache_info().currsize
    signatures(
        Mail(headers=(HeaderField(b"From", b" a@b.example"), *long)), [who], Manner(*BOTH), 1
    )
    assert dkim_sign._plan.cache_info().currsize == before
    for each in (dkim_sign._plan, dkim_sign._frame):
        assert each.cache_info().maxsize == dkim_sign.REMEMBERED


@pytest.mark.parametrize("value", [b" a@b.example", b" " * 300 + b"a@b.example"])
def test_an_address_is_read_again(value: bytes) -> None:
    assert mailboxes(value) == mailboxes(bytes(value)) != mailboxes(value.replace(b"a@", b"c@"))
    for _ in range(2):
        with pytest.raises(AddressError):
            mailboxes(value + b"@")
