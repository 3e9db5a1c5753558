"""The table types by name, one row a type, and the one function that opens a table.

A type's module is loaded when a table of it is first opened.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Protocol, cast

from milterd.base.near import nearest
from smtpgw.tables import spec as specs
from smtpgw.tables.context import Context
from smtpgw.tables.maps import Maps
from smtpgw.tables.table import Table, TableError

TYPES = {
    "btree": "hash",
    "cidr": "cidr",
    "environ": "environ",
    "fail": "fail",
    "hash": "hash",
    "inline": "inline",
    "ldap": "ldap",
    "lmdb": "lmdb",
    "mysql": "mysql",
    "pcre": "pcre",
    "pgsql": "pgsql",
    "pipemap": "pipemap",
    "proxy": "proxy",
    "randmap": "randmap",
    "regexp": "regexp",
    "socketmap": "socketmap",
    "sqlite": "sqlite",
    "static": "static",
    "tcp": "tcp",
    "texthash": "texthash",
    "unionmap": "unionmap",
    "unix": "unix",
}
"""Type: its module in this package."""


class _Module(Protocol):
    def open(self, name: str, context: Context) -> Table: ...


def open_table(text: str | specs.Spec, context: Context) -> Table:
    """The table that `type:name` says.  Raises TableError."""
    spec = specs.parse(text) if isinstance(text, str) else text
    check_type(spec)
    module = importlib.import_module(f"smtpgw.tables.{TYPES[spec.type]}")

    def member(text: str) -> Table:
        return open_table(text, context)

    given = dataclasses.replace(context, open=member, type=spec.type)
    return cast(_Module, module).open(spec.name, given)


def check_type(spec: specs.Spec) -> None:
    """Raises TableError for a type that is not known."""
    if spec.type not in TYPES:
        raise TableError(str(spec), found=f"table type {spec.type!r}", expected=_types(spec.type))


def open_maps(text: str, context: Context) -> Maps:
    """A list of tables as one.  Raises TableError."""
    return Maps(tuple(open_table(each, context) for each in specs.parse_list(text)))


def _types(wrong: str) -> str:
    near = nearest(wrong, TYPES)
    return f"{near}:" if near else f"one of {', '.join(TYPES)}"
