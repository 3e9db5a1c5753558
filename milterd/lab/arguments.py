"""What a user types on `milterlab`'s command line, as values.

Every function raises typer.BadParameter, which names the option and what was found.
"""

from __future__ import annotations

import re

import typer

from milterd.core.mail import Client, Direction, Family, Session
from milterd.lab.mta_rules import RULES, Rules

_CLIENT = re.compile(r"(?:(?P<name>[^\s\[\]]+)?\[)?(?P<address>[0-9A-Fa-f.:]+)\]?")


def octets(text: str, option: str) -> bytes:
    """An address or name as octets, without the brackets a user may have typed."""
    if any(each < " " or each == "\x7f" for each in text):
        raise typer.BadParameter("holds a control character", param_hint=option)
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    return text.encode("utf-8", "surrogateescape")


def session_of(client: str, helo: str, auth: str | None, macros: list[str]) -> Session:
    given: dict[str, bytes] = {}
    if auth is not None:
        given |= {"auth_type": b"PLAIN", "auth_authen": octets(auth, "--auth")}
    for each in macros:
        name, equals, value = each.partition("=")
        if not equals or not name.strip("{}"):
            raise typer.BadParameter(f"{each!r} is not NAME=VALUE", param_hint="--macro")
        given[name.strip("{}")] = octets(value, "--macro")
    direction = Direction.INBOUND if auth is None else Direction.ORIGINATING
    return Session(client_of(client), octets(helo, "--helo"), direction, given)


def rules_of(name: str) -> Rules:
    """The rules of an MTA by its name."""
    if name not in RULES:
        known = " or ".join(RULES)
        raise typer.BadParameter(f"{name!r}: expected {known}", param_hint="--as")
    return RULES[name]


def client_of(text: str) -> Client:
    match = _CLIENT.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not IP, [IP] or NAME[IP]", param_hint="--client")
    address = match["address"]
    name = match["name"] or f"[{address}]"
    family = Family.INET6 if ":" in address else Family.INET
    return Client(name.encode(), family, address.encode(), 25000)
