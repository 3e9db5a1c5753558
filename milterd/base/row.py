"""The order of filters in a row of milters: who changes mail comes before who signs it.

Told by the settings file alone, which both halves read: [[smtpgw.milter]] names sockets, and
[filter.NAME] says whose they are.  A milter at any other address is nobody we know, and nothing
is said of it; nor is the order in Postfix's main.cf, which is not ours to read.  The same file
says how many sessions a row may have at once.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from milterd.base import sockets
from milterd.base.toml_file import Problem

ORDER = ("clamav", "attachments", "headers", "dkim")
"""What scans, what takes out, what tidies; and what signs last, over all that the others left."""
SOCKETS = "/var/spool/postfix/milterd"
"""Where relative socket paths are, unless milterd.socket_directory says otherwise."""
INSIDE = "filter:"
"""What the address of a milter begins with that is a filter of this file, run by the gateway."""
POSTFIX = "/var/spool/postfix/"
WORKERS, CLIENTS = 1, 1000
"""What the gateway has without the keys: smtpgw.workers, and smtpgw.default_process_limit."""
_DIRECTIONS = frozenset({"inbound", "originating"})


@dataclass(frozen=True, slots=True)
class Asked:
    """A row's place that one of our filters has: its table, the mail and listeners it is for."""

    at: int
    filter: str
    directions: frozenset[str]
    listeners: frozenset[str]

    def meets(self, other: Asked, direction: str) -> bool:
        """Whether both are asked about some mail of that direction."""
        if direction not in self.directions & other.directions:
            return False
        return not self.listeners or not other.listeners or bool(self.listeners & other.listeners)


def rank(name: str) -> tuple[int, str]:
    """For sorting filters into the right order; one that is not known comes before signing."""
    at = ORDER.index(name) if name in ORDER else len(ORDER) - 1
    return (2 * at + (name in ORDER), name)


def filters_at(tables: Mapping[str, Any]) -> dict[str, str]:
    """The filters of a settings file by their addresses; what is wrong is passed over."""
    own = _table(tables, "milterd")
    directory = own.get("socket_directory", SOCKETS)
    found = {}
    for name, each in _filters(tables).items():
        text = each.get("socket", f"unix:{name}.sock") if isinstance(each, Mapping) else None
        address = _address(text, directory if isinstance(directory, str) else SOCKETS)
        if address:
            found[address] = name
    return found


def _filters(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The filters' tables by name, those of a postmaster's own filters among them."""
    found = dict(_table(tables, "filter"))
    own = found.pop("own", None)
    return {**(own if isinstance(own, Mapping) else {}), **found}


def sessions(tables: Mapping[str, Any]) -> dict[str, int]:
    """How many connections the gateway may have to each filter at once: one for each client's
    session, of all workers and listeners, and for each table that names the filter's socket."""
    own, gateway = filters_at(tables), _table(tables, "smtpgw")
    clients = _number(gateway, "workers", WORKERS) * _number(
        gateway, "default_process_limit", CLIENTS
    )
    found: dict[str, int] = {}
    for each in _list(gateway, "milter"):
        name = _asked(each, own) if not _inside(each) else None
        listeners = _listeners(gateway, each) if name else None
        if name and listeners is not None:
            number = len(listeners) or len(_list(gateway, "listener"))
            found[name] = found.get(name, 0) + number * clients
    return found


def unknown(tables: Mapping[str, Any]) -> list[Problem]:
    """Filters that the gateway is to run itself and that have no table; file and line are still
    to be put in."""
    known = _filters(tables)
    return [
        Problem(
            "", 0, f"smtpgw.milter[{at}].address", repr(f"{INSIDE}{name}"), f"[filter.{name}] too"
        )
        for at, each in enumerate(_list(_table(tables, "smtpgw"), "milter"))
        if (name := _inside(each)) and name not in known
    ]


def _inside(milter: object) -> str:
    """The filter that the gateway runs itself in this place; empty where it asks at a socket."""
    address = milter.get("address") if isinstance(milter, Mapping) else None
    found = isinstance(address, str) and address.startswith(INSIDE)
    return str(address).removeprefix(INSIDE) if found else ""


def _asked(milter: object, own: Mapping[str, str]) -> str | None:
    """Our filter in this place, by our filters' addresses; None for anybody else's milter."""
    if not isinstance(milter, Mapping):
        return None
    return _inside(milter) or own.get(_address(milter.get("address"), ""))


def smtpd_milters(addresses: Mapping[str, str]) -> str:
    """Postfix's line for filters by their addresses, in the right order."""
    row = sorted(addresses.items(), key=lambda found: rank(found[1]))
    return "smtpd_milters = " + ", ".join(_postfix(address) for address, _ in row)


def problems(tables: Mapping[str, Any], changing: Iterable[str] = ()) -> list[Problem]:
    """What is wrong with the order of [[smtpgw.milter]]; file and line are still to be put in.
    `changing` are filters of a postmaster's own that may change header fields or bodies: what
    they do cannot be told from the settings."""
    row = list(_row(tables, {*ORDER, *changing}))
    settings = _table(tables, "filter")
    wrong: list[Problem] = []
    for at, before in enumerate(row):
        for after in row[at + 1 :]:
            why = _why(before, after, _table(settings, "dkim")) if before.filter == "dkim" else ""
            if why:
                wrong.append(_too_early(tables, before, after, why))
            if after.filter == "dkim" and _breaks_before(before, after, settings):
                wrong.append(_too_late(tables, before, after))
    return wrong


def _why(dkim: Asked, after: Asked, settings: Mapping[str, Any]) -> str:
    """What goes wrong where a filter is asked after dkim; empty where nothing does."""
    if after.filter == "dkim":
        return ""
    signing = ("signing_table", "opendkim_signing_table", "rotation_file")
    if dkim.meets(after, "originating") and any(settings.get(each) for each in signing):
        return "it changes mail that is signed by then"
    if after.filter == "headers" and dkim.meets(after, "inbound") and settings.get("verify"):
        return "it takes off Authentication-Results that dkim has put on by then"
    return ""


def _breaks_before(before: Asked, dkim: Asked, settings: Mapping[str, Any]) -> bool:
    """Whether a filter breaks good signatures before dkim looks at them."""
    forces = _table(settings, before.filter).get("on_signed") == "force"
    verifies = bool(_table(settings, "dkim").get("verify"))
    return forces and verifies and before.filter != "dkim" and before.meets(dkim, "inbound")


def _too_late(tables: Mapping[str, Any], before: Asked, dkim: Asked) -> Problem:
    names = [_name(tables, each.at) for each in (dkim, before)]
    return Problem(
        "", 0, f"smtpgw.milter[{dkim.at}]",
        f"{names[0]!r} (filter dkim), which verifies, below {names[1]!r} (filter {before.filter})",
        f"inbound mail verified above {names[1]!r}, which breaks signatures (on_signed = "
        '"force"): give dkim two tables, the first with directions = ["inbound"], the last with '
        '["originating"]; or set on_signed = "skip"',
    )  # fmt: skip


def _too_early(tables: Mapping[str, Any], dkim: Asked, after: Asked, why: str) -> Problem:
    names = [_name(tables, each.at) for each in (dkim, after)]
    return Problem(
        "", 0, f"smtpgw.milter[{dkim.at}]",
        f"{names[0]!r} (filter dkim) above {names[1]!r} (filter {after.filter})",
        f"it below {names[1]!r}, since {why}: move its table down, or give the two other "
        "directions or listeners",
    )  # fmt: skip


def _row(tables: Mapping[str, Any], looked_at: Container[str]) -> Iterator[Asked]:
    """These filters among the gateway's milters, in the order of asking, but for those that only
    look on."""
    own = filters_at(tables)
    gateway = _table(tables, "smtpgw")
    for at, each in enumerate(_list(gateway, "milter")):
        name = _asked(each, own)
        settings = _filters(tables).get(name or "", {})
        if name in looked_at and name and _mode(settings) != "shadow":
            listeners = _listeners(gateway, each)
            if listeners is not None:
                yield Asked(at, name, _strings(each, "directions") or _DIRECTIONS, listeners)


def _mode(settings: object) -> object:
    return settings.get("mode") if isinstance(settings, Mapping) else None


def _listeners(gateway: Mapping[str, Any], milter: Mapping[str, Any]) -> frozenset[str] | None:
    """Those that ask a milter: by its own table, and by theirs.  Empty means all, None nobody."""
    tables = [each for each in _list(gateway, "listener") if isinstance(each, Mapping)]
    if not any("milters" in each for each in tables):
        return _strings(milter, "listeners")
    wanted = _strings(milter, "listeners")
    found = frozenset(
        str(each.get("name"))
        for each in tables
        if (not wanted or each.get("name") in wanted)
        and ("milters" not in each or milter.get("name") in _strings(each, "milters"))
    )
    return found or None


def _name(tables: Mapping[str, Any], at: int) -> str:
    return str(_table(tables, "smtpgw")["milter"][at].get("name", at))


def _table(tables: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = tables.get(key)
    return found if isinstance(found, Mapping) else {}


def _list(table: Mapping[str, Any], key: str) -> Sequence[Any]:
    found = table.get(key)
    return found if isinstance(found, list) else []


def _number(table: Mapping[str, Any], key: str, default: int) -> int:
    found = table.get(key)
    return found if isinstance(found, int) else default


def _strings(table: Mapping[str, Any], key: str) -> frozenset[str]:
    found: Iterable[Any] = _list(table, key)
    return frozenset(each for each in found if isinstance(each, str))


def _address(text: object, directory: str) -> str:
    try:
        return str(sockets.parse(text, directory=directory)) if isinstance(text, str) else ""
    except ValueError:
        return ""


def _postfix(address: str) -> str:
    """An address as Postfix is told it (milter(5)): `inet:HOST:PORT`; a path below its chroot
    where that is possible."""
    scheme, _, rest = address.partition(":")
    if scheme == "unix":
        return f"unix:{rest.removeprefix(POSTFIX)}"
    port, _, host = rest.partition("@")
    return f"{scheme}:[{host}]:{port}" if ":" in host else f"{scheme}:{host}:{port}"
