"""The policy protocol's octets: what is written is read again, whatever comes in what pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpgw.delegation import codec

NAMES = st.from_regex(r"[a-z][a-z_]{0,20}", fullmatch=True)
VALUES = st.text(max_size=60)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.dictionaries(NAMES, VALUES, min_size=1, max_size=8), max_size=4),
    st.lists(st.integers(1, 300), min_size=1, max_size=20),
)
def test_what_is_written_is_read_again_in_any_pieces(
    those: list[dict[str, str]], cuts: list[int]
) -> None:
    octets = b"".join(map(codec.encode, those))
    reader, found = codec.Reader(), []
    for cut in itertools.cycle(cuts):
        if not octets:
            break
        reader.feed(octets[:cut])
        octets = octets[cut:]
        while (each := reader.next()) is not None:
            found.append(each)
    safe = [{name: codec.safe(value) for name, value in each.items()} for each in those]
    assert found == safe
    assert reader.empty


def test_a_value_never_becomes_an_attribute_of_its_own() -> None:
    octets = codec.encode({"sender": "a\nrecipient=b\r\n\n", "helo_name": "x\0y\u2028z"})
    assert octets == b"sender=a?recipient=b???\nhelo_name=x?y?z\n\n"


@pytest.mark.parametrize("name", ["", "a b", "a=b", "a\nb", "1a", "ä"])
def test_a_name_has_to_be_one(name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        codec.encode({name: "x"})


@pytest.mark.parametrize(
    "octets",
    [
        b"\n",
        b"no equals sign\n",
        b"=x\n",
        b"a=1\na=2\n",
        b"x" * (codec.LINE_LIMIT + 1),
        b"a=" + b"x" * codec.LINE_LIMIT + b"\n",
        b"".join(b"a%d=\n" % each for each in range(codec.ATTRIBUTES + 1)),
        b"".join(b"a%d=%b\n" % (each, b"x" * 8000) for each in range(9)),
    ],
)
def test_garbage_is_malformed(octets: bytes) -> None:
    reader = codec.Reader()
    reader.feed(octets)
    with pytest.raises(codec.Malformed):
        reader.next()


@pytest.mark.parametrize("answer", [{}, {"verdict": "OK"}])
def test_an_answer_has_an_action(answer: dict[str, str]) -> None:
    with pytest.raises(codec.Malformed):
        codec.action(answer)


def test_other_attributes_of_an_answer_count_for_nothing() -> None:
    assert codec.action({"action": " "}) == "DUNNO"
    assert codec.action({"x": "y", "action": " DEFER_IF_PERMIT later "}) == "DEFER_IF_PERMIT later"
