"""Settings of reception made up from a seed, written as main.cf and as our own, and dialogues.

A world is what all of a server goes by: domains, networks, tables, restriction classes.  In it are
several services, each with restriction lists and codes of its own, as master.cf's `-o` and our
listeners have them: so that many are tried at one start.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smtpgw.config import Smtpgw
from smtpgw.config.reception import Reception
from smtpgw.policy import registry
from smtpgw.policy import restrictions as _restrictions  # noqa: F401 - they register themselves
from tests.peers.postfix import age
from tests.reception.names import CLIENTS, SERVER, Client

Dice = random.Random
HOST = "own.gateway.example"
DEFAULT = "(default)"

# -- tables ----------------------------------------------------------------------------------

ACTIONS = (
    "OK", "OK", "REJECT", "REJECT go away", "REJECT 5.7.9 go away", "DUNNO", "DUNNO", "550 no",
    "450 4.7.9 not now", "554 5.1.0 never", "DEFER later", "DEFER_IF_PERMIT maybe later",
    "DEFER_IF_REJECT maybe later", "HOLD look", "WARN odd", "INFO seen", "PREPEND X-Seen: yes",
    "REDIRECT u@local.example", "BCC u@local.example", "permit", "reject", "reject_unlisted_sender",
    "reject_unauth_destination", "class_one", "class_two", "permit_mynetworks", "DISCARD gone",
    "FILTER discard:x", "403", "permit_auth_destination, reject_non_fqdn_sender",
    "defer_if_permit", "4.7.3 no code", "12345", "421 4.7.0 bye", "521 5.7.0 bye",
)  # fmt: skip
_CLIENT_KEYS = (
    *(each.address for each in CLIENTS), "192.0.2", "192.0", "2001:db8::", "2001:db8:0:0:0:0:0:2",
    "mail.good.example", "good.example", ".good.example", "bad.example", ".bad.example", "example",
    "unknown", "noforward.example", "own.local.example",
)  # fmt: skip
_NAMES = (
    "mail.good.example", "good.example", ".good.example", "bad.example", "mx.bad.example",
    "ns.bad.example", "203.0.113.9", "203.0.113.53", "192.0.2.1", "203.0.113", "loop.example",
    "127", "example", "client.test", "localhost",
)  # fmt: skip
_ADDRESS_KEYS = (
    "s@good.example", "s@", "good.example", ".good.example", "<>", "s@bad.example", "bad.example",
    "u@local.example", "u@", "local.example", "relay.example", ".relay.example", "u+ext@",
    "example", "s+x@good.example", "foreign.example", "w@va.example", "postmaster@", "postmaster",
)  # fmt: skip


@dataclass
class Tables:
    """Contents by file name."""

    files: dict[str, str] = field(default_factory=dict)

    def make(self, dice: Dice, kind: str) -> str:
        """One for keys of that kind (client, name, address): how it is named in a list."""
        keys = {"client": _CLIENT_KEYS, "name": _NAMES, "address": _ADDRESS_KEYS}[kind]
        rows = {dice.choice(keys): dice.choice(ACTIONS) for _ in range(dice.randint(1, 5))}
        shape = dice.random()
        if shape < 0.35:
            return self._file("texthash", (f"{key} {value}\n" for key, value in rows.items()))
        if shape < 0.5:
            pairs = ", ".join(f"{{{key} = {value}}}" for key, value in rows.items())
            return f"inline:{{{pairs}}}"
        if shape < 0.6:
            return f"static:{{{dice.choice(ACTIONS)}}}"
        if shape < 0.8 and kind == "client":
            nets = ("192.0.2.0/28", "192.0.2.8/30", "2001:db8::/126", "192.0.2.3", "!192.0.2.0/29")
            lines = (f"{dice.choice(nets)} {dice.choice(ACTIONS)}\n" for _ in rows)
            return self._file("cidr", lines)
        patterns = ("/good/", "/^u/", "/bad/i", "/@local/", "/^unknown$/", "!/example/", "/^192/")
        lines = (f"{dice.choice(patterns)} {dice.choice(ACTIONS)}\n" for _ in rows)
        return self._file(dice.choice(("regexp", "pcre")), lines)

    def _file(self, kind: str, lines: Iterable[str]) -> str:
        name = f"table{len(self.files)}"
        self.files[name] = "".join(lines)
        return f"{kind}:{{place}}/{name}"


# -- restriction lists -----------------------------------------------------------------------

_SITES = ("bl.test", "bl.test=127.0.0.2", "bl.test=127.0.0.[2..5]", "bl2.test", "tempbl.test",
          "bl.test=127.0.[0;1].[1..20]", "nothing.test")  # fmt: skip
_RHS = ("rhs.test", "rhs.test=127.0.0.2", "rhs.test=127.0.[0;1].[3;10]", "nothing.test")
_GENERAL = (
    "permit", "reject", "defer", "defer_if_permit", "defer_if_reject", "permit_mynetworks",
    "permit_mynetworks", "reject_unauth_pipelining", "reject_plaintext_session", "class_one",
    "class_two", "permit_sasl_authenticated", "permit_inet_interfaces", "permit_tls_clientcerts",
    "reject_multi_recipient_bounce", "permit_tls_all_clientcerts",
)  # fmt: skip
_PLAIN = {
    "client": ("reject_unknown_client_hostname", "reject_unknown_reverse_client_hostname"),
    "helo": ("reject_invalid_helo_hostname", "reject_non_fqdn_helo_hostname",
             "reject_unknown_helo_hostname"),
    "sender": ("reject_non_fqdn_sender", "reject_unknown_sender_domain", "reject_unlisted_sender"),
    "recipient": ("reject_non_fqdn_recipient", "reject_unknown_recipient_domain",
                  "reject_unlisted_recipient", "permit_auth_destination", "permit_mx_backup",
                  "reject_unauth_destination", "defer_unauth_destination"),
}  # fmt: skip
_ACCESS = {
    "client": (("check_client_access", "client"), ("check_reverse_client_hostname_access", "name"),
               *((f"check_client_{kind}_access", "name") for kind in ("a", "ns", "mx")),
               *((f"check_reverse_client_hostname_{kind}_access", "name") for kind in ("mx",))),
    "helo": (("check_helo_access", "name"),
             *((f"check_helo_{kind}_access", "name") for kind in ("a", "mx", "ns"))),
    "sender": (("check_sender_access", "address"), ("check_sender_access", "address"),
               *((f"check_sender_{kind}_access", "name") for kind in ("a", "mx", "ns"))),
    "recipient": (("check_recipient_access", "address"), ("check_recipient_access", "address"),
                  *((f"check_recipient_{kind}_access", "name") for kind in ("a", "mx", "ns"))),
}  # fmt: skip
_BY_LIST = {
    "client": (("reject_rbl_client", _SITES), ("permit_dnswl_client", ("wl.test",
                "wl.test=127.0.[5].[1..3]")), ("reject_rhsbl_client", _RHS),
               ("reject_rhsbl_reverse_client", _RHS), ("permit_rhswl_client", ("rhswl.test",))),
    "helo": (("reject_rhsbl_helo", _RHS),),
    "sender": (("reject_rhsbl_sender", _RHS),),
    "recipient": (("reject_rhsbl_recipient", _RHS),),
}  # fmt: skip
STAGES = ("client", "helo", "sender", "recipient")


def restriction(dice: Dice, tables: Tables, stage: str, classes: bool = True) -> str:
    """One that may stand in a list of this stage; most are about what is known there."""
    while True:
        found = _restriction(dice, tables, stage, classes)
        name = found.removeprefix("warn_if_reject ").split()[0]
        if name.startswith("class_") or registry.find(name):
            return found


def _restriction(dice: Dice, tables: Tables, stage: str, classes: bool) -> str:
    about = stage if dice.random() < 0.75 else dice.choice(STAGES[: STAGES.index(stage) + 1])
    kind = dice.random()
    if kind < 0.2:
        those = [each for each in _GENERAL if classes or not each.startswith("class_")]
        found = dice.choice(those)
    elif kind < 0.5:
        found = dice.choice(_PLAIN[about])
    elif kind < 0.8:
        name, keys = dice.choice(_ACCESS[about])
        found = f"{name} {tables.make(dice, keys)}"
    else:
        name, sites = dice.choice(_BY_LIST[about])
        found = f"{name} {dice.choice(sites)}"
    return f"warn_if_reject {found}" if dice.random() < 0.08 else found


def a_list(dice: Dice, tables: Tables, stage: str, most: int = 4) -> list[str]:
    """Some of them, often none."""
    count = 0 if dice.random() < 0.25 else dice.randint(1, most)
    return [restriction(dice, tables, stage) for _ in range(count)]


# -- settings --------------------------------------------------------------------------------

_CODES: Mapping[str, Sequence[str]] = {
    "access_map_reject_code": ("554", "550", "450"),
    "access_map_defer_code": ("450", "451"),
    "defer_code": ("450", "451"),
    "invalid_hostname_reject_code": ("501", "550", "450"),
    "maps_rbl_reject_code": ("554", "550", "450"),
    "non_fqdn_reject_code": ("504", "550", "450"),
    "plaintext_reject_code": ("450", "550"),
    "reject_code": ("554", "550", "450"),
    "relay_domains_reject_code": ("554", "550"),
    "unknown_address_reject_code": ("450", "550"),
    "unknown_client_reject_code": ("450", "550"),
    "unknown_hostname_reject_code": ("450", "550"),
    "multi_recipient_bounce_reject_code": ("550", "450"),
    "unknown_address_tempfail_action": ("defer_if_permit", "defer"),
    "unknown_helo_hostname_tempfail_action": ("defer_if_permit", "defer"),
    "reject_tempfail_action": ("defer_if_permit", "defer"),
    "smtpd_null_access_lookup_key": ("<>", "s@good.example"),
}
_SWITCHES = (
    "smtpd_reject_unlisted_sender", "disable_vrfy_command",
    "allow_untrusted_routing", "soft_bounce",
)  # fmt: skip
_USUALLY = ("smtpd_delay_reject", "smtpd_reject_unlisted_recipient",
            "smtpd_relay_before_recipient_restrictions")  # fmt: skip


def service(dice: Dice, tables: Tables) -> dict[str, str]:
    """Parameters of one service."""
    found = {f"smtpd_{each}_restrictions": ", ".join(a_list(dice, tables, each))
             for each in STAGES}  # fmt: skip
    relay = ["permit_mynetworks"] if dice.random() < 0.7 else []
    # What stands behind one that always decides is not looked at, and Postfix insists on one of
    # the last.
    final = ("permit", "reject", "defer")
    relay += [each for each in a_list(dice, tables, "recipient", 1) if each not in final]
    relay.append(dice.choice(("reject_unauth_destination", "reject_unauth_destination",
                              "defer_unauth_destination", "reject")))  # fmt: skip
    found["smtpd_relay_restrictions"] = ", ".join(relay)
    for each in ("data", "end_of_data"):
        those = a_list(dice, tables, "recipient", 2) if dice.random() < 0.3 else []
        found[f"smtpd_{each}_restrictions"] = ", ".join(those)
    if dice.random() < 0.3:
        found["smtpd_etrn_restrictions"] = ", ".join(a_list(dice, tables, "helo", 2))
    found |= {name: dice.choice(values) for name, values in _CODES.items() if dice.random() < 0.3}
    found |= {name: "yes" for name in _SWITCHES if dice.random() < 0.2}
    found["smtpd_helo_required"] = dice.choice(("yes", "yes", "no"))
    found |= {name: "no" for name in _USUALLY if dice.random() < 0.2}
    if dice.random() < 0.1:
        found["smtpd_reject_footer"] = "\\c; ask postmaster"
    return {name: value for name, value in found.items() if name in Reception.model_fields}


_WORLD: Mapping[str, Sequence[str]] = {
    "mydestination": ("local.example", "local.example, $myhostname"),
    "relay_domains": ("relay.example", "relay.example, backup.example"),
    "virtual_alias_domains": ("va.example",),
    "virtual_alias_maps": ("inline:{w@va.example=u@local.example}",),
    "virtual_mailbox_domains": ("vm.example",),
    "virtual_mailbox_maps": ("inline:{u@vm.example=x}", "static:x"),
    "local_recipient_maps": ("inline:{u=x, postmaster=x}", "", "fail:nothing"),
    "relay_recipient_maps": ("", "inline:{u@relay.example=x}"),
    "recipient_delimiter": ("", "+"),
    "parent_domain_matches_subdomains": (
        "debug_peer_list, smtpd_access_maps, relay_domains", "relay_domains", "smtpd_access_maps",
    ),
    "permit_mx_backup_networks": ("", "192.0.2.0/28"),
    "unknown_local_recipient_reject_code": ("550", "450"),
    "unknown_virtual_mailbox_reject_code": ("550", "450"),
    "unknown_relay_recipient_reject_code": ("550",),
}  # fmt: skip
FIXED = {
    "myhostname": HOST, "mydomain": "gateway.example", "myorigin": "local.example",
    "mynetworks": "192.0.2.2, 127.0.0.0/8", "append_dot_mydomain": "no",
    "local_transport": "discard:", "virtual_transport": "discard:", "relay_transport": "discard:",
    "default_transport": "discard:", "smtpd_hard_error_limit": "1000",
    "smtpd_soft_error_limit": "1000", "smtpd_junk_command_limit": "1000",
    "alias_maps": "", "smtpd_client_connection_count_limit": "500",
}  # fmt: skip


MINE = {"local_addresses": SERVER, "fast_flush_domains": "nobody.invalid"}
"""ETRN is for nobody; what Postfix says then, without a flush service, is told to all."""


@dataclass
class World:
    """`main` in main.cf and [smtpgw]; `classes` are restriction lists with names, `extra`
    more of our settings, `theirs` more of main.cf, `mine` of [smtpgw]."""

    main: dict[str, str]
    classes: dict[str, str]
    services: list[dict[str, str]]
    tables: Tables
    extra: str = ""
    theirs: dict[str, str] = field(default_factory=dict)
    mine: dict[str, str] = field(default_factory=lambda: dict(MINE))

    def write(self, place: Path) -> None:
        """The tables as files in a directory."""
        for name, text in self.tables.files.items():
            (place / name).write_text(text)
            age(place / name)

    def main_cf(self, place: Path) -> dict[str, str]:
        """Parameters of main.cf."""
        found = self.main | self.classes | {"smtpd_restriction_classes": ", ".join(self.classes)}
        return {name: _placed(value, place) for name, value in (found | self.theirs).items()}

    def master(self, place: Path, number: int) -> str:
        """The options of a service."""
        options = self.services[number].items()
        return "".join(f"  -o {{ {name} = {_placed(value, place)} }}\n" for name, value in options)

    def toml(self, place: Path, ports: Sequence[int], addresses: Sequence[str]) -> str:
        """All of it as [smtpgw]; a service listens at its port of each address."""
        names = {"smtpd_restriction_classes": ", ".join(self.classes)} if self.classes else {}
        lines = ["[smtpgw]", *_lines(self.main | names | self.mine, Smtpgw.model_fields, place)]
        lines.append("[smtpgw.define]")
        for name, each in self.classes.items():
            lines.append(f"{name} = {json.dumps(_placed(each, place))}")
        for number, (port, own) in enumerate(zip(ports, self.services, strict=True)):
            for at, address in enumerate(addresses):
                lines += ["[[smtpgw.listener]]", f'name = "s{number}-{at}"']
                lines.append(f'address = "{address}:{port}"')
                lines += _lines(own, Reception.model_fields, place)
        return "\n".join(lines) + "\n"


def _placed(text: str, place: Path) -> str:
    return text.replace("{place}", str(place))


def _lines(values: Mapping[str, str], known: Mapping[str, object], place: Path) -> list[str]:
    # What is not known is written as well: the settings then say so.
    return [
        f"{name} = {_toml(known.get(name), _placed(text, place))}" for name, text in values.items()
    ]


def _toml(known: object, text: str) -> str:
    default = getattr(known, "default", "")
    if isinstance(default, bool):
        return json.dumps(text == "yes")
    if isinstance(default, int):
        return text
    if isinstance(default, tuple):
        return json.dumps(split(text))
    return json.dumps(text)


def split(text: str) -> list[str]:
    """The parts of a list, where commas outside of braces part them."""
    found, depth = [""], 0
    for each in text:
        depth += {"{": 1, "}": -1}.get(each, 0)
        if each == "," and not depth:
            found.append("")
        else:
            found[-1] += each
    return [each.strip() for each in found if each.strip()]


def world(dice: Dice, services: int) -> World:
    """Any one."""
    tables = Tables()
    chosen = {name: dice.choice(values) for name, values in _WORLD.items()}
    main = FIXED | {name: each for name, each in chosen.items() if name in Smtpgw.model_fields}
    classes = {
        name: ", ".join(restriction(dice, tables, "recipient", classes=False) for _ in range(2))
        for name in ("class_one", "class_two")
    }
    return World(main, classes, [service(dice, tables) for _ in range(services)], tables)


# -- dialogues -------------------------------------------------------------------------------

_HELOS = (
    "mail.good.example", "client.test", "localhost", "[192.0.2.1]", "[IPv6:2001:db8::1]",
    "bad.example",
    "temp.example", "nowhere.example", "a_b.example", "good.example", "nullmx.example",
    "-x.example", "nodata.example", "192.0.2.1", "x..y", "HOST", "loopmx.example", "badmx.example",
    "good.example.",
)  # fmt: skip
_SENDERS = (
    "s@good.example", "s@good.example", "", "s@bad.example", "s@nowhere.example", "s@temp.example",
    "u@local.example", "x@local.example", "s", "s@host", "s@nullmx.example", "s@[192.0.2.1]",
    "s@badmx.example", "s@loopmx.example", "s@alias.example", "s@nodata.example",
    "s@tempmx.example",
    "s+x@good.example", "s@lostmx.example", "s@six.example", "x@va.example", "s@tempns.example",
    "postmaster", "s@good.example.", "s@deadalias.example", "s@a.good.example",
)  # fmt: skip
_RECIPIENTS = (
    "u@local.example", "u@local.example", "u@local.example", "x@local.example", "u@relay.example",
    "x@relay.example", "w@va.example", "x@va.example", "u@vm.example", "x@vm.example", "u",
    "u@foreign.example", "u@good.example", "u+ext@local.example", "postmaster", "u@nowhere.example",
    "u%foreign.example@local.example", "u@sub.relay.example", "u@backup.example", "u@temp.example",
    "postmaster@local.example", "U@LOCAL.Example", "u@[192.0.2.250]", "u@host", "u@badmx.example",
    "u@[203.0.113.1]", "@foreign.example:u@local.example", "u!foreign.example@relay.example",
)  # fmt: skip


@dataclass(frozen=True)
class Dialogue:
    """Who says what."""

    client: Client
    commands: tuple[str, ...]


def _transaction(dice: Dice) -> list[str]:
    found = [f"MAIL FROM:<{dice.choice(_SENDERS)}>"]
    found += [f"RCPT TO:<{dice.choice(_RECIPIENTS)}>" for _ in range(dice.choice((1, 1, 2, 3)))]
    found.append(dice.choice(("DATA", "DATA", "RSET", "RCPT TO:<u@local.example>")))
    return found


def dialogue(dice: Dice) -> Dialogue:
    """Any one."""
    commands: list[str] = []
    if dice.random() < 0.95:
        commands.append(f"{dice.choice(('EHLO', 'EHLO', 'HELO'))} {dice.choice(_HELOS)}")
    extras: tuple[Callable[[], str], ...] = (
        lambda: f"VRFY {dice.choice(_RECIPIENTS[:8])}",
        lambda: f"ETRN {dice.choice(('local.example', 'relay.example', 'foreign.example'))}",
        lambda: "NOOP",
        lambda: f"EHLO {dice.choice(_HELOS)}",
        lambda: "RSET",
    )
    for _ in range(dice.choice((1, 1, 2))):
        if dice.random() < 0.2:
            commands.append(dice.choice(extras)())
        commands += _transaction(dice)
    return Dialogue(dice.choice(CLIENTS), (*commands, "QUIT"))
