"""`$name` in replies, of names that are known when a client is answered (smtpd_expand(3)).  Pure.

    $name  ${name}  $(name)  ${name?text}  ${name:text}  ${name?{text}:{text}}

What a client has said may hold characters that no reply should: they become `_`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from smtpgw.policy import text as words
from smtpgw.policy.facts import Facts

Value = Callable[[str], str | None]
"""What a name stands for; None where there is no such name."""
_NAME = re.compile(r"\$(?:\$|(?P<plain>\w+)|(?P<open>[{(]))", re.ASCII)
_INSIDE = re.compile(r"\s*(?P<name>\w+)\s*(?:(?P<sign>[?:])(?P<rest>.*))?\Z", re.ASCII | re.DOTALL)
_CLOSING = {"{": "}", "(": ")"}
_DEEPEST = 20


class TemplateError(ValueError):
    """What is wrong with a template."""


def expand(template: str, value: Value, allowed: str, depth: int = 0) -> str:
    """The template with all names replaced; characters that are not `allowed` become `_`.
    Raises TemplateError."""
    if depth > _DEEPEST:
        raise TemplateError("too many brackets within brackets")
    found: list[str] = []
    at = 0
    while match := _NAME.search(template, at):
        found.append(template[at : match.start()])
        at = match.end()
        if match["plain"]:
            found.append(_filtered(_known(match["plain"], value), allowed))
        elif match["open"]:
            end = _closed(template, match.start("open"))
            found.append(_bracketed(template[at:end], value, allowed, depth))
            at = end + 1
        else:
            found.append("$")
    return "".join([*found, template[at:]])


def _bracketed(inside: str, value: Value, allowed: str, depth: int) -> str:
    match = _INSIDE.match(inside)
    if match is None:
        raise TemplateError(f"${{{inside}}}, expected ${{name}}, ${{name?text}} or ${{name:text}}")
    known = _known(match["name"], value)
    if match["sign"] is None:
        return _filtered(known, allowed)
    chosen, other = _texts(match["rest"])
    text = chosen if bool(known) is (match["sign"] == "?") else other
    return expand(text, value, allowed, depth + 1)


def _texts(rest: str) -> tuple[str, str]:
    bare = rest.strip()
    if not bare.startswith("{"):
        return rest, ""
    end = _closed(bare, 0)
    behind = bare[end + 1 :].strip()
    if not behind:
        return bare[1:end], ""
    if not (behind.startswith(":{") and behind.endswith("}")):
        raise TemplateError(f"{rest!r}, expected {{text}}:{{text}}")
    return bare[1:end], behind[2:-1]


def _closed(text: str, at: int) -> int:
    opening, closing, depth = text[at], _CLOSING[text[at]], 0
    for place in range(at, len(text)):
        depth += (text[place] == opening) - (text[place] == closing)
        if not depth:
            return place
    raise TemplateError(f"no {closing!r} for a {opening!r}")


def _known(name: str, value: Value) -> str:
    found = value(name)
    if found is None:
        raise TemplateError(f"${name} stands for nothing here")
    return found


def _filtered(text: str, allowed: str) -> str:
    return "".join(each if each in allowed else "_" for each in text)


def of_facts(facts: Facts, server_name: str, wall: Callable[[], float]) -> Value:
    """The names of smtpd_reject_footer and default_rbl_reply that are about the session."""

    def value(name: str) -> str | None:
        if name == "localtime":
            return time.strftime("%b %d %H:%M:%S", time.localtime(wall()))
        for side, address in (("sender", facts.sender), ("recipient", facts.recipient)):
            if name.startswith(side):
                return _address(name.removeprefix(side), address)
        return {
            "server_name": server_name,
            "client": facts.shown,
            "client_address": facts.address,
            "client_port": str(facts.client.port),
            "client_name": words.shown(facts.names.name),
            "reverse_client_name": words.shown(facts.names.reverse),
            "helo_name": words.shown(facts.helo or b""),
        }.get(name)

    return value


def _address(part: str, address: bytes | None) -> str | None:
    if part not in ("", "_name", "_domain"):
        return None
    if address is None:
        return ""
    local, at, domain = words.shown(address).rpartition("@")
    if part == "_domain":
        return domain if at else ""
    if not address:
        return "<>"
    if not part:
        return words.shown(address)
    return local if at else domain
