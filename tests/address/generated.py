"""Configurations of Postfix made up from a seed, as Postfix and as we are told them, and
addresses to try on them."""

from __future__ import annotations

import functools
import ipaddress
import operator
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from milterd.core.mail import Envelope, Recipient
from smtpgw.address import form
from smtpgw.address.canonical import Canonical
from smtpgw.address.extension import Delimiter
from smtpgw.address.find import Finder
from smtpgw.address.known import Known, KnownOptions
from smtpgw.address.lists import DomainList, Element
from smtpgw.address.mapping import Mapper
from smtpgw.address.masquerade import Masquerade
from smtpgw.address.resolve import AddressClass, ResolveOptions, Resolver
from smtpgw.address.standard import Standard, StandardOptions
from smtpgw.address.virtual import Virtual, VirtualOptions
from smtpgw.rewriting import Part, RewriteOptions, Rewriter
from smtpgw.tables.catalogue import open_table
from smtpgw.tables.context import Context
from smtpgw.tables.maps import Maps

HOST = "postfix.example.org"
DOMAINS = (
    "local.example", "va.example", "vm.example", "relay.example", "sub.relay.example",
    "x.example", "a.x.example", "b.a.x.example", "other.test", "HOST.Local.Example", HOST,
)  # fmt: skip
USERS = (
    "u", "u+ext", "u+a+b", "owner-list", "list-request", "U", "a%x.example", "site!u", "a b",
    'q"x', "-dash", "a@other.test", "postmaster", "u+", "+u", "a..b", ".a", "x@local.example",
    "o'brien", "a%b%c", "s1!s2!u", "ü", "v", "w", "v-1", "a+b c",
)  # fmt: skip
ODD = (
    "{}", "{}@", "{}@[127.0.0.1]", "{}@[192.0.2.7]", "{}@[IPv6:::1]", "{}@local.example.",
    "{}@x.example..", "{}@bad_do..main", "{}@-x.example", "{}@1.2.3.4", "{}@host",
)  # fmt: skip


def internal_address(dice: random.Random) -> bytes:
    """An internal address, one in four of them odd."""
    user = dice.choice(USERS)
    if dice.random() < 0.25:
        return dice.choice(ODD).format(user).encode()
    return f"{user}@{dice.choice(DOMAINS)}".encode()


def _key(dice: random.Random) -> str:
    domain = dice.choice(DOMAINS).lower()
    kind = dice.random()
    if kind < 0.35:
        user = dice.choice(("u", "u+ext", "a", "owner-list", "list", "v", "w", "v-1"))
        return f"{user}@{domain}"
    if kind < 0.5:
        return domain
    if kind < 0.65:
        return f".{domain}"
    if kind < 0.85:
        return f"@{domain}"
    return dice.choice(("u", "v", "u+ext", "*"))


def _route(dice: random.Random) -> str:
    return dice.choice((
        "smtp:", "relay:", "smtp:[mail.example]:26", ":", ":[nh.example]", "lmtp:unix:/run/x",
        "error:5.7.1 no mail here", "retry:", "error:", "slow:hop",
    ))  # fmt: skip


def _sender_key(dice: random.Random) -> str:
    return dice.choice(("s@x.example", "@x.example", "<>", "s", "s@local.example"))


def _one(dice: random.Random) -> str:
    user = dice.choice(("u", "u+ext", "v", "w", "x", "U", '"a b"', "owner-list", "v-1"))
    domain = dice.choice((*DOMAINS[:6], "host"))
    return user if dice.random() < 0.1 else f"{user}@{domain}"


def _several(dice: random.Random) -> str:
    if dice.random() < 0.15:
        return f"@{dice.choice(DOMAINS[:6])}"
    count = dice.choice((1, 1, 1, 2, 3))
    return dice.choice((", ", " ", ",")).join(_one(dice) for _ in range(count))


def _new(dice: random.Random) -> str:
    return f"@{dice.choice(DOMAINS[:6])}" if dice.random() < 0.15 else _one(dice)


def _one_and_only(dice: random.Random) -> str:
    return dice.choice(("archive@x.example", "copy+x@local.example", "u"))


RESULTS = {
    "transport_maps": (_key, _route, 8),
    "relocated_maps": (_key, lambda _dice: "new@example.net", 2),
    "sender_dependent_relayhost_maps": (
        _sender_key, lambda dice: dice.choice(("[sd.example]", "DUNNO", "sd.example:77")), 2
    ),
    "sender_dependent_default_transport_maps": (
        _sender_key, lambda dice: dice.choice(("smtp:[sx.example]", "DUNNO", "relay:")), 2
    ),
    "canonical_maps": (_key, _new, 7),
    "sender_canonical_maps": (_key, _new, 7),
    "recipient_canonical_maps": (_key, _new, 7),
    "virtual_alias_maps": (_key, _several, 9),
    "sender_bcc_maps": (_key, _one_and_only, 3),
    "recipient_bcc_maps": (_key, _one_and_only, 3),
    "local_recipient_maps": (_key, lambda _dice: "x", 5),
    "virtual_mailbox_maps": (_key, lambda _dice: "x", 5),
    "relay_recipient_maps": (_key, lambda _dice: "x", 5),
}  # fmt: skip
"""Parameter: what makes its keys, its values, and how many of them at most."""


@dataclass
class Configuration:
    """`main` is for main.cf, without the tables; `tables` are their contents, `specs` tables
    of other types."""

    main: dict[str, str]
    tables: dict[str, dict[str, str]] = field(default_factory=dict)
    specs: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def envelope(sender: bytes, recipient: bytes) -> Envelope:
        """Of internal addresses."""
        return Envelope(form.external(sender), (), (Recipient(form.external(recipient)),))

    def write(self, place: Path) -> dict[str, str]:
        """All of main.cf, with the tables as files in a directory."""
        main = dict(self.main)
        for name in RESULTS:
            if name in self.tables:
                lines = (f"{key} {value}\n" for key, value in self.tables[name].items())
                (place / name).write_text("".join(lines))
            main[name] = f"texthash:{place / name}" if name in self.tables else ""
            main[name] = self.specs.get(name, main[name])
        return main

    def _is(self, name: str) -> bool:
        return self.main[name] == "yes"

    def _octets(self, name: str) -> bytes:
        return self.main[name].replace("$myhostname", HOST).encode()

    def _list(self, name: str, *, parents: bool = False, below: bool = False) -> DomainList:
        names = self.main[name].replace("$myhostname", HOST).replace(",", " ").split()
        those = [Element(each.lstrip("!").encode(), None, each.startswith("!")) for each in names]
        return DomainList(those, parents, below)

    def _maps(self, name: str, place: Path) -> Maps | None:
        if name in self.specs:
            return Maps([open_table(self.specs[name], Context())])
        if name not in self.tables:
            return None
        return Maps([open_table(f"texthash:{place / name}", Context())])

    def standard(self) -> Standard:
        return Standard(
            StandardOptions(
                self._octets("myorigin"),
                b"example.org",
                append_dot_mydomain=self._is("append_dot_mydomain"),
                swap_bangpath=self._is("swap_bangpath"),
                allow_percent_hack=self._is("allow_percent_hack"),
            )
        )

    def delimiter(self) -> Delimiter:
        return Delimiter(self._octets("recipient_delimiter"))

    def resolver(self, place: Path) -> Resolver:
        options = ResolveOptions(
            HOST.encode(),
            self._list("mydestination"),
            self._list("virtual_alias_domains"),
            self._list("virtual_mailbox_domains"),
            self._list("relay_domains", parents=True, below=True),
            frozenset({ipaddress.ip_address("127.0.0.1")}),
            self._octets("local_transport"),
            self._octets("virtual_transport"),
            self._octets("relay_transport"),
            self._octets("default_transport"),
            self._octets("relayhost"),
            self._maps("sender_dependent_relayhost_maps", place),
            self._maps("sender_dependent_default_transport_maps", place),
            self._maps("transport_maps", place),
            "transport_maps" in self.main["parent_domain_matches_subdomains"],
            self._maps("relocated_maps", place),
            self._is("show_user_unknown_table_name"),
        )
        return Resolver(options, self.standard(), self.delimiter())

    def mapper(self) -> Mapper:
        own = self._list("mydestination")
        origin = self._octets("myorigin").lower()

        async def ours(domain: bytes) -> bool:
            return domain.lower() == origin or bool(await own.match(domain))

        return Mapper(Finder(self.delimiter(), ours), self.standard())

    def _canonical(self, name: str, place: Path) -> Canonical | None:
        maps = self._maps(name, place)
        propagate = "canonical" in self.main["propagate_unmatched_extensions"]
        return None if maps is None else Canonical(maps, self.mapper(), propagate)

    def _classes(self, name: str) -> Part:
        those = self.main[name].replace(",", " ").split()
        return functools.reduce(operator.or_, (Part[each.upper()] for each in those))

    def rewriter(self, place: Path) -> Rewriter:
        options = RewriteOptions(
            self._canonical("canonical_maps", place),
            self._classes("canonical_classes"),
            self._canonical("sender_canonical_maps", place),
            self._classes("sender_canonical_classes"),
            self._canonical("recipient_canonical_maps", place),
            self._classes("recipient_canonical_classes"),
            self._masquerade(),
            self._classes("masquerade_classes"),
            self._virtual(place),
            self._octets("always_bcc"),
            self._maps("sender_bcc_maps", place),
            self._maps("recipient_bcc_maps", place),
        )
        return Rewriter(options, self.standard(), self.mapper().finder)

    def known(self, place: Path) -> Known:
        before = ("recipient_canonical_maps", "canonical_maps", "virtual_alias_maps")
        lists = {
            AddressClass.LOCAL: "local_recipient_maps",
            AddressClass.VIRTUAL_MAILBOX: "virtual_mailbox_maps",
            AddressClass.RELAY: "relay_recipient_maps",
        }
        found = {kind: self._maps(name, place) for kind, name in lists.items()}
        options = KnownOptions(
            [maps for maps in (self._maps(each, place) for each in before) if maps is not None],
            {kind: maps for kind, maps in found.items() if maps is not None},
            self._is("show_user_unknown_table_name"),
        )
        return Known(options, self.resolver(place).finder)

    def _virtual(self, place: Path) -> Virtual | None:
        maps = self._maps("virtual_alias_maps", place)
        options = VirtualOptions(
            int(self.main["virtual_alias_recursion_limit"]),
            int(self.main["virtual_alias_expansion_limit"]),
            propagate="virtual" in self.main["propagate_unmatched_extensions"],
        )
        return None if maps is None else Virtual(maps, self.mapper(), options)

    def _masquerade(self) -> Masquerade:
        exceptions = self.main["masquerade_exceptions"].split()
        return Masquerade(
            [each.encode() for each in self.main["masquerade_domains"].split()],
            [each.encode() for each in exceptions],
        )


CHOICES: Mapping[str, tuple[str, ...]] = {
    "myorigin": ("$myhostname", "local.example", "origin.test"),
    "mydestination": (
        "", "local.example", "local.example, $myhostname", "!a.x.example .local.example",
        "host.local.example $myhostname",
    ),
    "virtual_alias_domains": ("", "va.example"),
    "virtual_mailbox_domains": ("vm.example",),
    "relay_domains": (
        "", "relay.example", "!sub.relay.example relay.example", ".relay.example",
    ),
    "relayhost": ("", "[smart.example]:587", "smart.example", "smtp:[host.example]:2525"),
    "local_transport": ("local", "local:$myhostname", "error:no local mail", "lmtp:unix:/l"),
    "virtual_transport": ("virtual", "lmtp:unix:/v"),
    "relay_transport": ("relay", "smtp:[r.example]"),
    "default_transport": ("smtp", "smtp:[d.example]", "relay"),
    "recipient_delimiter": ("", "+", "+-"),
    "allow_percent_hack": ("yes", "no"),
    "swap_bangpath": ("yes", "no"),
    "append_dot_mydomain": ("yes", "no"),
    "show_user_unknown_table_name": ("yes", "no"),
    "parent_domain_matches_subdomains": ("relay_domains", "relay_domains,transport_maps"),
    "propagate_unmatched_extensions": ("canonical, virtual", "canonical", "", "virtual"),
    "virtual_alias_recursion_limit": ("20",),
    "virtual_alias_expansion_limit": ("30",),
    "canonical_classes": (
        "envelope_sender, envelope_recipient, header_sender, header_recipient",
        "envelope_sender, header_sender", "header_recipient",
    ),
    "sender_canonical_classes": ("envelope_sender, header_sender", "header_sender"),
    "recipient_canonical_classes": ("envelope_recipient, header_recipient", "envelope_recipient"),
    "masquerade_classes": (
        "envelope_sender, header_sender, header_recipient",
        "envelope_sender, envelope_recipient",
    ),
    "always_bcc": ("", "", "all@a.x.example"),
    "masquerade_domains": ("", "x.example", "!a.x.example x.example"),
    "masquerade_exceptions": ("", "v"),
}  # fmt: skip


def configuration(dice: random.Random) -> Configuration:
    """Any of them."""
    main = {name: dice.choice(values) for name, values in CHOICES.items()}
    tables = {}
    for name, (key, value, most) in RESULTS.items():
        if dice.random() < 0.5:
            tables[name] = {key(dice): value(dice) for _ in range(dice.randint(1, most))}
    return Configuration(main, tables)
