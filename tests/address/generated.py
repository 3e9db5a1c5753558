"""Configurations of Postfix made up from a seed, written as main.cf and as our own settings, and
addresses to try on them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from milterd.base import logs
from milterd.core.mail import Envelope, Recipient
from smtpgw import config
from smtpgw.address import form
from smtpgw.addresses import Addresses, open_addresses
from smtpgw.tables import spec
from tests.peers.postfix import age

HOST = "postfix.example.org"
DOMAINS = (
    "local.example", "va.example", "vm.example", "relay.example", "sub.relay.example",
    "x.example", "a.x.example", "b.a.x.example", "other.test", "HOST.Local.Example", HOST,
    "bücher.example", "BÜCHER.Example",
)  # fmt: skip
USERS = (
    "u", "u+ext", "u+a+b", "owner-list", "list-request", "U", "a%x.example", "site!u", "a b",
    'q"x', "-dash", "a@other.test", "postmaster", "u+", "+u", "a..b", ".a", "x@local.example",
    "o'brien", "a%b%c", "s1!s2!u", "ü", "Ü", "v", "w", "v-1", "a+b c", "root",
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
    "smtp_generic_maps": (_key, _one, 6),
}  # fmt: skip
"""Parameter: what makes its keys, its values, and how many of them at most."""


PATTERNS: Mapping[str, tuple[str, ...]] = {
    "transport_maps": (
        "regexp:{{/@x\\.example$$/ smtp:[re.example]}}",
        "pcre:{{/^v@(.*)$$/ :[$$1]}}",
        "static:smtp:[st.example]",
        "cidr:{{192.0.2.0/24 smtp:[c.example]}}",
        "inline:{u@x.example=slow:hop, {*=smtp:[star.example]}}",
    ),
    "sender_dependent_relayhost_maps": (
        "regexp:{{/@x\\.example$$/ [sdre.example]}}",
        "static:[all.example]",
        "static:DUNNO",
    ),
    "sender_dependent_default_transport_maps": (
        "pcre:{{/@x\\.example$$/ smtp:[sdpcre.example]}}",
        "inline:{<>=relay:}",
    ),
    "canonical_maps": (
        "pcre:{{/^(.*)@b\\.a\\.x\\.example$$/ $$1@a.x.example}}",
        "inline:{@other.test=@x.example}",
    ),
    "recipient_canonical_maps": ("regexp:{{/^(u)@a\\.x\\.example$$/ $${1}@x.example}}",),
    "virtual_alias_maps": (
        "pcre:{{/^(u.*)@va\\.example$$/ $$1@x.example}}",
        "static:u@x.example",
        "inline:{u@va.example=v@x.example, @vm.example=w@local.example}",
        "unionmap:{inline:{u@va.example=v@x.example}, inline:{u@va.example=w}}",
        "pipemap:{inline:{u@x.example=k, v@x.example=k}, inline:{k=w@x.example}}",
    ),
    "sender_bcc_maps": ("static:archive@x.example",),
    "recipient_bcc_maps": ('pcre:{{/^([^"]*)@a\\.x\\.example$$/ copy-$$1@x.example}}',),
    "local_recipient_maps": ("static:x", "inline:{u=x, v=x}", "unix:passwd.byname"),
    "virtual_mailbox_maps": ("static:x", "regexp:{{/^u/ x}}"),
    "relay_recipient_maps": ("regexp:{{/^u@/ x}}", "inline:{@relay.example=x}"),
}
"""Tables of other types, for the same parameters."""

FILES = {
    "own": "local.example x\n.a.x.example x\nbücher.example x\n",
    "own.list": "# ours\nlocal.example\n  !b.a.x.example\n.a.x.example $myhostname\n",
    "relayed": "relay.example x\n.x.example x\n",
    "relayed.list": "!sub.relay.example\nrelay.example\ninline:{x.example=x}\n",
}
"""What lists of domains name: `{place}` is where."""

DEFAULT = "(default)"
"""The parameter is not set, neither there nor here."""


@dataclass
class Configuration:
    """`main` is for main.cf, without the tables; `tables` are their contents, `specs` tables
    of other types, asked first."""

    main: dict[str, str]
    tables: dict[str, dict[str, str]] = field(default_factory=dict)
    specs: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def envelope(sender: bytes, recipient: bytes) -> Envelope:
        """Of internal addresses."""
        return Envelope(form.external(sender), (), (Recipient(form.external(recipient)),))

    def write(self, place: Path) -> dict[str, str]:
        """All of main.cf, with the tables as files in a directory."""
        for name, text in FILES.items():
            _file(place / name, text)
        main = {key: value.replace("{place}", str(place)) for key, value in self.main.items()}
        for name in RESULTS:
            those = [self.specs[name]] if name in self.specs else []
            if name in self.tables:
                lines = (f"{key} {value}\n" for key, value in self.tables[name].items())
                _file(place / name, "".join(lines))
                those.append(f"texthash:{place / name}")
            main[name] = ", ".join(those)
        return {key: value for key, value in main.items() if value != DEFAULT}

    def addresses(self, place: Path) -> Addresses:
        """What our settings make of it."""
        return open_addresses(self.settings(place), logs.get("tables"))

    def settings(self, place: Path) -> config.Smtpgw:
        """The same as settings of ours, read from a file."""
        file = place / "gatepost.toml"
        file.write_text(self.toml(place))
        return config.load(file).smtpgw

    def toml(self, place: Path) -> str:
        """The table [smtpgw] of those settings."""
        lines = [f"[smtpgw]\nmyhostname = {json.dumps(HOST)}\nlocal_addresses = ['127.0.0.1']\n"]
        for name, text in self.write(place).items():
            if name in config.Smtpgw.model_fields:
                lines.append(f"{name} = {_toml(name, text)}\n")
        return "".join([*lines, f"tables.directory = {json.dumps(str(place))}\n"])


def _file(path: Path, text: str) -> None:
    """An old one: Postfix waits before it reads what is new."""
    path.write_text(text)
    age(path)


def _toml(name: str, text: str) -> str:
    """A value of main.cf as a value of TOML."""
    default = config.Smtpgw.model_fields[name].default
    if isinstance(default, bool):
        return json.dumps(text == "yes")
    if isinstance(default, int):
        return text
    if isinstance(default, tuple):
        return json.dumps(list(spec.split(text)), ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False)


CHOICES: Mapping[str, tuple[str, ...]] = {
    "myorigin": (DEFAULT, "$myhostname", "local.example", "origin.test", "$mydomain"),
    "mydestination": (
        "$myhostname, localhost.$mydomain, localhost", "", "local.example",
        "local.example, $myhostname", "!a.x.example .local.example",
        "host.local.example $myhostname", "texthash:{place}/own", "{place}/own.list",
        "inline:{local.example=x} x.example", "!regexp:{{/^[ab]\\./ x}} {place}/own.list",
        "bücher.example local.example",
    ),
    "virtual_alias_domains": (
        DEFAULT, DEFAULT, "", "va.example", "$virtual_alias_maps va.example",
        "pcre:{{/^va\\.example$$/ x}}",
    ),
    "virtual_mailbox_domains": (
        "vm.example", "$virtual_mailbox_maps", "inline:{vm.example=x, .a.x.example=x}",
        ".x.example vm.example",
    ),
    "relay_domains": (
        DEFAULT, "", "relay.example", "!sub.relay.example relay.example", ".relay.example",
        "texthash:{place}/relayed", "{place}/relayed.list", "$mydestination x.example",
    ),
    "relayhost": (
        DEFAULT, "", "[smart.example]:587", "smart.example", "smtp:[host.example]:2525",
    ),
    "local_transport": ("local", "local:$myhostname", "error:no local mail", "lmtp:unix:/l"),
    "virtual_transport": (DEFAULT, "virtual", "lmtp:unix:/v", "$local_transport"),
    "relay_transport": (
        DEFAULT, "relay", "smtp:[r.example]", "${relayhost?smtp}${relayhost:relay}",
    ),
    "default_transport": (DEFAULT, "smtp", "smtp:[d.example]", "relay"),
    "recipient_delimiter": (DEFAULT, "", "+", "+-"),
    "owner_request_special": (DEFAULT, "yes", "no"),
    "allow_percent_hack": (DEFAULT, "yes", "no"),
    "swap_bangpath": (DEFAULT, "yes", "no"),
    "append_dot_mydomain": (DEFAULT, "yes", "no"),
    "show_user_unknown_table_name": (DEFAULT, "yes", "no"),
    "parent_domain_matches_subdomains": (
        DEFAULT, "relay_domains", "relay_domains,transport_maps", "transport_maps", "",
        "debug_peer_list",
    ),
    "propagate_unmatched_extensions": (
        DEFAULT, "canonical, virtual", "canonical", "", "virtual", "canonical, virtual, generic",
    ),
    "virtual_alias_recursion_limit": ("20",),
    "virtual_alias_expansion_limit": ("30",),
    "canonical_classes": (
        DEFAULT, "envelope_sender, envelope_recipient, header_sender, header_recipient",
        "envelope_sender, header_sender", "header_recipient",
    ),
    "sender_canonical_classes": (DEFAULT, "envelope_sender, header_sender", "header_sender"),
    "recipient_canonical_classes": (
        DEFAULT, "envelope_recipient, header_recipient", "envelope_recipient",
    ),
    "masquerade_classes": (
        DEFAULT, "envelope_sender, header_sender, header_recipient",
        "envelope_sender, envelope_recipient",
    ),
    "always_bcc": (DEFAULT, "", "all@a.x.example"),
    "masquerade_domains": (DEFAULT, "", "x.example", "!a.x.example x.example", "$mydomain"),
    "masquerade_exceptions": (DEFAULT, "", "v"),
}  # fmt: skip


def configuration(dice: random.Random) -> Configuration:
    """Any of them."""
    main = {name: dice.choice(values) for name, values in CHOICES.items()}
    tables, specs = {}, {}
    for name, (key, value, most) in RESULTS.items():
        if dice.random() < 0.5:
            tables[name] = {key(dice): value(dice) for _ in range(dice.randint(1, most))}
        if name in PATTERNS and dice.random() < 0.2:
            specs[name] = dice.choice(PATTERNS[name])
    return Configuration(main, tables, specs)
