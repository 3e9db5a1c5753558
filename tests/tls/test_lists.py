"""TLS versions, cipher grades and OpenSSL's options, as Postfix writes them."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.tls import ciphers, flags, versions
from smtpgw.tls.names import keys

V = ssl.TLSVersion


@pytest.mark.parametrize(
    ("text", "first", "last", "without"),
    [
        (">=TLSv1.2", V.TLSv1_2, V.TLSv1_3, 0),
        ("!SSLv2, !SSLv3", V.TLSv1, V.TLSv1_3, 0),
        ("!SSLv2 !SSLv3 !TLSv1:!TLSv1.1", V.TLSv1_2, V.TLSv1_3, 0),
        (">=TLSv1, <=TLSv1.2", V.TLSv1, V.TLSv1_2, 0),
        ("TLSv1.2", V.TLSv1_2, V.TLSv1_2, 0),
        ("tlsv1.3", V.TLSv1_3, V.TLSv1_3, 0),
        ("TLSv1.1, TLSv1.3", V.TLSv1_1, V.TLSv1_3, int(ssl.OP_NO_TLSv1_2)),
        ("", V.TLSv1, V.TLSv1_3, 0),
    ],
)
def test_versions(text: str, first: V, last: V, without: int) -> None:
    assert versions.parse(text) == versions.Versions(first, last, without)


@pytest.mark.parametrize(
    "text", ["TLSv2", ">TLSv1.2", "SSLv3", "<=SSLv3", "!TLSv1.2 !TLSv1.3 TLSv1.2"]
)
def test_versions_that_leave_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        versions.parse(text)


@given(
    st.lists(
        st.sampled_from(["", "!", ">=", "<="]).flatmap(
            lambda sign: st.sampled_from(versions.NAMES).map(lambda name: sign + name)
        ),
        max_size=6,
    )
)
def test_any_list_of_versions_is_a_range_or_an_error(words: list[str]) -> None:
    try:
        found = versions.parse(" ".join(words))
    except ValueError:
        return
    assert V.TLSv1 <= found.first <= found.last <= V.TLSv1_3


def test_anonymous_ciphers_are_never_offered() -> None:  # D06
    text = ciphers.cipher_list("ALL:aNULL:eNULL", ["RC4", "!MD5"])
    assert text == "ALL:aNULL:eNULL:!aNULL:!RC4:!MD5"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(text)
    names = {each["name"] for each in context.get_ciphers()}
    assert not any(each.startswith(("ADH", "AECDH")) for each in names)


@pytest.mark.parametrize("word", ["", "a:b", "a b", "a\n"])
def test_an_exclusion_is_one_word(word: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        ciphers.cipher_list("HIGH", [word])


def test_options_by_name() -> None:
    found = flags.parse(["NO_TICKET", "no_session_resumption_on_renegotiation", "0x00400000"])
    assert found == flags.ALWAYS | int(ssl.OP_NO_TICKET) | 1 << 16 | 1 << 22
    assert flags.NAMES["NO_TICKET"] == int(ssl.OP_NO_TICKET)
    assert flags.NAMES["NO_COMPRESSION"] == int(ssl.OP_NO_COMPRESSION)
    assert flags.NAMES["NO_RENEGOTIATION"] == int(ssl.OP_NO_RENEGOTIATION)
    assert flags.NAMES["CIPHER_SERVER_PREFERENCE"] == int(ssl.OP_CIPHER_SERVER_PREFERENCE)
    assert flags.NAMES["ENABLE_MIDDLEBOX_COMPAT"] == int(ssl.OP_ENABLE_MIDDLEBOX_COMPAT)


@pytest.mark.parametrize("word", ["NO_SUCH", "0xfffffffff", "0x00040000"])
def test_options_that_are_none(word: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        flags.parse([word])


def test_keys_of_server_names() -> None:
    assert list(keys("a.b.example")) == ["a.b.example", ".b.example", ".example"]
