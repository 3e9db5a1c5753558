"""Local aliases, as aliases(5) has them: names, addresses, files, and no end in circles."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.address.aliases import (
    Aliases,
    AliasOptions,
    Expanded,
    Kind,
    Unreadable,
    included,
    targets,
)
from smtpgw.address.extension import Delimiter
from smtpgw.address.standard import Standard, StandardOptions
from smtpgw.address.virtual import Unreasonable
from smtpgw.tables.table import Found

FILES = {b"/lists/all": b"# everybody\nann, bob\n\nsub@elsewhere.example\n:include:/lists/more\n",
         b"/lists/more": b"carol\n"}  # fmt: skip


PLUS = Delimiter(b"+")


class Fixed:
    """A table of these keys."""

    def __init__(self, content: Mapping[str, str]) -> None:
        self.content = {key.encode(): value.encode() for key, value in content.items()}

    async def find(self, key: bytes, partial: bool = False) -> Found | None:  # noqa: ARG002 - all its keys are fixed
        value = self.content.get(key)
        return None if value is None else Found(value, "aliases:1")


async def _here(domain: bytes) -> bool:
    return domain == b"here.example"


async def _read(path: bytes) -> bytes:
    if path not in FILES:
        raise Unreadable(f"{path!r}: no such file")
    return FILES[path]


def expand(
    content: Mapping[str, str],
    name: str,
    origin: bytes = b"here.example",
    delimiter: Delimiter = PLUS,
    **limits: int,
) -> Expanded | None:
    aliases = Aliases(
        Fixed(content),
        Standard(StandardOptions(origin)),
        delimiter,
        _here,
        _read,
        AliasOptions(**limits),
    )
    return asyncio.run(aliases.expand(f"{name}@here.example".encode()))


def recipients(content: Mapping[str, str], name: str) -> list[str]:
    found = expand(content, name)
    assert found is not None
    return [each.decode() for each in found.recipients]


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        ({"root": "ann"}, "root", ["ann@here.example"]),
        ({"root": "ann", "ann": "ann@elsewhere.example"}, "root", ["ann@elsewhere.example"]),
        ({"root": "ann, root"}, "root", ["ann@here.example", "root@here.example"]),
        ({"a": "b", "b": "a"}, "a", ["a@here.example"]),
        ({"list": ":include:/lists/all"}, "list",
         ["ann@here.example", "bob@here.example", "sub@elsewhere.example", "carol@here.example"]),
        ({"ann+news": "x@y.example", "ann": "z@y.example"}, "ann+news", ["x@y.example"]),
        ({"ann": "z@y.example"}, "ann+news", ["z@y.example"]),
        ({"a": '"b c"@d.example, x@here.example'}, "a", ["b c@d.example", "x@here.example"]),
        ({"all": "ann, Ann, ann"}, "all", ["ann@here.example"]),
    ],
)  # fmt: skip
def test_aliases_are_followed_to_their_end(
    content: dict[str, str], name: str, expected: list[str]
) -> None:
    assert recipients(content, name) == expected


def test_a_name_without_alias_is_none() -> None:
    assert expand({"a": "b"}, "b") is None


def test_commands_and_files_are_refused_with_the_reason() -> None:
    found = expand({"a": '"|/bin/sh -c \\"x\\"", /var/mail/a, |cat, ann'}, "a")
    assert found is not None
    assert found.recipients == (b"ann@here.example",)
    assert [each.split(" is refused: ") for each in found.refused] == [
        ["delivery to a command", '/bin/sh -c "x"'],
        ["delivery to a file", "/var/mail/a"],
        ["delivery to a command", "cat"],
    ]


def test_the_owner_of_a_list_gets_its_errors() -> None:
    found = expand({"list": "ann", "owner-list": "boss"}, "list")
    assert found is not None
    assert found.owner == b"owner-list@here.example"
    owner = expand({"list": "ann", "owner-list": "boss", "owner-owner-list": "x"}, "owner-list")
    assert owner is not None
    assert owner.owner is None


def test_no_owner_is_special_where_owner_request_special_is_off() -> None:
    content = {"list": "ann", "owner-list": "boss"}
    found = expand(content, "list", delimiter=Delimiter(b"+", owner_request=False))
    assert found is not None
    assert found.owner is None


def test_a_name_belongs_to_myorigin_and_is_no_alias_where_that_is_elsewhere() -> None:
    found = expand({"root": "ann", "ann": "bob", "owner-root": "x"}, "root", b"there.example")
    assert found is not None
    assert found.recipients == (b"ann@there.example",)
    assert found.owner == b"owner-root@there.example"


def test_what_has_no_end_is_refused_for_now() -> None:
    chain = {f"n{number}": f"n{number + 1}" for number in range(200)}
    with pytest.raises(Unreasonable):
        expand(chain, "n0")
    many = {"all": ", ".join(f"u{number}" for number in range(60))}
    with pytest.raises(Unreasonable):
        expand(many, "all", most=50)


def test_a_file_that_cannot_be_read_is_no_empty_list() -> None:
    found = expand({"a": ":include:/lists/none, ann"}, "a")
    assert found is not None
    assert found.recipients == (b"ann@here.example",)
    assert found.refused == ("a list of addresses cannot be read: /lists/none",)


@given(st.binary(max_size=120))
def test_any_value_reads_as_something(value: bytes) -> None:
    for each in [*targets(value), *included(value)]:
        assert isinstance(each.kind, Kind)
