"""How a policy service is named in a restriction list, and what may be said about it there.

    check_policy_service unix:private/policy
    check_policy_service inet:127.0.0.1:10023
    check_policy_service { inet:127.0.0.1:10023, timeout=10s, default_action=DUNNO }

(postconf(5), check_policy_service and smtpd_policy_service_*.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """Postfix's smtpd_policy_service_NAME: seconds, and counts (`request_limit` 0: any number of
    requests by one connection)."""

    timeout: float = 100.0
    max_idle: float = 300.0
    max_ttl: float = 1000.0
    request_limit: int = 0
    try_limit: int = 2
    retry_delay: float = 1.0
    default_action: str = "451 4.3.5 Server configuration problem"
    policy_context: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    """`path` of a UNIX socket, or else `host` and `port`."""

    name: str
    options: PolicyOptions
    path: str = ""
    host: str = ""
    port: int = 0


def parse(text: str, options: PolicyOptions, directory: str = "") -> Service:
    """A service as it is written, which may change `options` for itself.  A relative path is taken
    from `directory`.  Raises ValueError saying what was expected."""
    words = text.strip()
    if not words.startswith("{"):
        return _where(words, options, directory)
    if not words.endswith("}"):
        raise ValueError(f"{text!r}: expected a closing brace")
    first, *rest = _parts(words[1:-1])
    changed = dict(_setting(each) for each in rest)
    return _where(first, replace(options, **changed), directory)  # type: ignore[arg-type]  # checked by _setting


def _parts(inside: str) -> list[str]:
    """What stands between braces: the service, then `name=value` or `{ name = value }` each,
    divided by commas or spaces outside of braces."""
    found = re.findall(r"\{([^{}]*)\}|([^\s,{}]+)", inside)
    parts = [(braced or plain).strip() for braced, plain in found]
    if not parts or re.sub(r"\{[^{}]*\}|[^\s,{}]+|[\s,]+", "", inside):
        raise ValueError(f"{{{inside}}}: expected SERVICE, name=value, ...")
    return parts


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,9})([smhdw]?)", text)
    if match is None:
        raise ValueError(f"expected a time like 10s, not {text!r}")
    return float(int(match[1]) * _UNITS[match[2]])


def _number(text: str) -> int:
    if re.fullmatch(r"\d{1,9}", text) is None:
        raise ValueError(f"expected a number, not {text!r}")
    return int(text)


_SETTINGS: Mapping[str, Callable[[str], object]] = MappingProxyType({
    "timeout": _seconds,
    "max_idle": _seconds,
    "max_ttl": _seconds,
    "request_limit": _number,
    "try_limit": _number,
    "retry_delay": _seconds,
    "default_action": str,
    "policy_context": str,
})  # fmt: skip


def _setting(text: str) -> tuple[str, object]:
    name, equals, value = (each.strip() for each in text.partition("="))
    if not equals or name not in _SETTINGS:
        known = ", ".join(_SETTINGS)
        raise ValueError(f"{text!r}: expected name=value, name one of {known}")
    try:
        found = _SETTINGS[name](value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if name in ("timeout", "try_limit") and not found:
        raise ValueError(f"{name}: expected more than 0")
    return name, found


def _where(text: str, options: PolicyOptions, directory: str) -> Service:
    kind, _, rest = text.partition(":")
    if kind in ("unix", "local") and rest:
        path = rest if rest.startswith("/") or not directory else f"{directory}/{rest}"
        if len(path.encode()) > 107:
            raise ValueError(f"{text!r}: a socket path has at most 107 octets")
        return Service(text, options, path=path)
    match = re.fullmatch(r"(?:\[([^\[\]\s]+)\]|([^:\[\]\s]+)):(\d{1,5})", rest)
    if kind == "inet" and match and 0 < int(match[3]) < 65536:
        return Service(text, options, host=match[1] or match[2], port=int(match[3]))
    raise ValueError(f"{text!r}: expected unix:PATH or inet:HOST:PORT")
