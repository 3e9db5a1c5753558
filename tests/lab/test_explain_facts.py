"""A facts file says what the filters gathered, to the octet, and every mistake in one is named."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milterd.base.toml_file import ConfigError
from milterd.core.filter import NoFacts
from milterd.explain.facts import UnwritableError, encode, facts_type, read, text_of
from milterd.filters.clamav import ClamavFilter
from milterd.filters.dkim import DkimFilter
from milterd.filters.headers import HeadersFilter
from milterd.ports.scanner import Infected, ScanFact, TooLarge, Unavailable

HINTS: dict[str, Any] = {
    each.name: facts_type(each)  # type: ignore[arg-type]  # the class knows as much
    for each in (ClamavFilter, DkimFilter, HeadersFilter)
}


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Odd:
    """What our own filters have not, and a filter of somebody's may have."""

    octets: bytes
    colour: Colour
    share: float
    yes: bool
    pair: tuple[int, str]
    many: tuple[bytes, ...] = ()


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries({name: st.from_type(hint) for name, hint in HINTS.items()}),
    st.builds(
        Odd,
        st.binary(),
        st.sampled_from(Colour),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
        st.tuples(st.integers(), st.text()),
        st.lists(st.binary()).map(tuple),
    ),
)
def test_what_is_written_reads_back_the_same(facts: dict[str, Any], odd: Odd) -> None:
    hints = {**HINTS, "odd": Odd, "none": NoFacts}
    facts = {**facts, "odd": odd, "none": NoFacts()}
    tables = {name: encode(each, hints[name]) for name, each in facts.items()}
    assert read(text_of(tables, "all of it"), "facts.toml", hints) == facts


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ('[clamav]\noutcome = "infected"\nsignature = "Eicar"', Infected("Eicar")),
        ('[clamav]\noutcome = "unavailable"\nwhy = "timeout"', Unavailable("timeout")),
        ('[clamav]\noutcome = "too-large"\nsize = 3\nlimit = 2', TooLarge(3, 2)),
    ],
)
def test_by_hand(text: str, fact: ScanFact) -> None:
    assert read(text, "f", HINTS) == {"clamav": fact}


def test_every_mistake_is_named_at_once() -> None:
    text = """\
[clamaf]
[clamav]
outcome = "infectd"
[dkim]
outcome = "not-signed"
reason = "x"
[headers]
edits = [{ kind = "add-header", name = { base64 = "!" }, value = 3 }, 7]
results = 1
"""
    with pytest.raises(ConfigError) as error:
        read(text, "f.toml", HINTS)
    assert [str(each) for each in error.value.problems] == [
        "f.toml:1: clamaf: found the unknown key 'clamaf', expected a filter of the settings file "
        "(there: clamav, dkim, headers); did you mean 'clamav'?",
        "f.toml:3: clamav.outcome: found 'infectd', expected one of clean, infected, unscannable, "
        "too-large, unavailable, skipped, passed; did you mean 'infected'?",
        "f.toml:4: dkim.why: found nothing, expected a value: this key has no default",
        "f.toml:6: dkim.reason: found the unknown key 'reason', expected a key of not-signed "
        "(there: why, detail)",
        "f.toml:8: headers.edits[0].name.base64: found '!', expected base64",
        'f.toml:8: headers.edits[0].value: found 3, expected text, or { base64 = "..." }',
        "f.toml:8: headers.edits[1]: found 7, expected a table",
        "f.toml:9: headers.results: found 1, expected a list",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[clamav", "expected TOML"),
        ("clamav = 1", "clamav: found 1, expected a table"),
        ("[clamav]", "clamav: found no outcome, expected one of clean"),
        ('[clamav]\noutcome = "unavailable"\nwhy = 1', "found 1, expected one of down, timeout"),
        (
            '[dkim]\noutcome = "signed"\ndomain = 1\nsignatures = [["a"]]',
            "domain: found 1, expected text\n.*found 1 values, expected 3 of them",
        ),
        (
            '[clamav]\noutcome = "too-large"\nsize = true\nlimit = 1',
            "True, expected a whole number",
        ),
    ],
)
def test_mistakes(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(text, "f", HINTS)


def test_the_page_shows_facts_that_can_be_read_and_names_every_outcome() -> None:
    page = (Path(__file__).parents[2] / "docs/lab/explain.md").read_text()
    (shown,) = re.findall(r"^```\n(\[.*?)^```$", page, re.M | re.S)
    assert read(shown, "page", HINTS) == {"clamav": Unavailable("timeout")}
    for hint in (HINTS["clamav"], HINTS["dkim"]):
        for kind in typing.get_args(hint):
            name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()
            (row,) = re.findall(rf"^\| .*\| `{name}` \|.*$", page, re.M)
            for field in dataclasses.fields(kind):
                assert f"`{field.name}`" in row


@given(st.text(alphabet="[]{}=\"'\n.,ab1_ #\\", max_size=60) | st.text(max_size=40))
def test_nothing_in_a_file_breaks_the_reader(text: str) -> None:
    with contextlib.suppress(ConfigError):
        read(text, "f", HINTS)


def test_facts_without_a_form_are_refused() -> None:
    with pytest.raises(UnwritableError, match="no form for"):
        encode(object(), object)
