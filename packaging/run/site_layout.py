"""The embedded site of `make run`: its directories, keys and settings, all below var/.

    var/gatepost.toml   the settings of both halves
    var/keys/           two DKIM keys, and keys.zone: the TXT records to publish
    var/mail/ADDRESS/   a Maildir for each recipient
    var/queue/          mail under way
    var/run/            sockets, while it runs
    var/log/clamd.log   what clamd says

The settings are made anew at each start, unless somebody has edited them: the first
line holds a digest of the rest, and a file that does not agree with it stays as it is.
"""

from __future__ import annotations

import hashlib
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from milterd.base.reference import toml
from milterd.base.sockets import MAX_PATH
from milterd.ports import keys

PORT = 2525
EXAMPLES = ("example.net", "example.org", "example.com")
SELECTORS = {"rsa": "gatepost-rsa", "ed25519": "gatepost-ed25519"}
_MARK = "# Made by `make run`, which keeps an edited file as it is.  Digest: "
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


class SiteError(Exception):
    """The site cannot be laid out; the message says why."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where everything is.  `top` is the project's directory, `var` is the site's."""

    top: Path
    var: Path
    port: int = PORT

    @property
    def settings(self) -> Path:
        return self.var / "gatepost.toml"

    @property
    def sockets(self) -> Path:
        return self.var / "run"

    @property
    def clamd_socket(self) -> Path:
        return self.sockets / "clamd.sock"

    @property
    def clamd_config(self) -> Path:
        return self.var / "clamd.conf"

    @property
    def clamd_log(self) -> Path:
        return self.var / "log" / "clamd.log"


def prepare(site: Site) -> bool:
    """Make what is missing.  Returns whether the settings are ours, not edited ones.

    Raises :class:`SiteError`.
    """
    longest = len(str(site.sockets / "milterd-metrics.sock").encode())
    if longest > MAX_PATH:
        raise SiteError(
            f"{site.sockets}: a socket's path may have {MAX_PATH} octets, and this would need "
            f"{longest}; move the project to a shorter path"
        )
    for name, mode in {"run": 0o755, "log": 0o755, "keys": 0o700, "mail": 0o700}.items():
        (site.var / name).mkdir(mode=mode, parents=True, exist_ok=True)
    (site.var / "tmp").mkdir(mode=0o700, exist_ok=True)
    _make_keys(site.var / "keys")
    site.clamd_config.write_text(_clamd_settings(site))
    return _write_settings(site.settings, _settings(site))


def domains() -> tuple[str, ...]:
    """The example domains, and the names of this machine: swaks sends from those."""
    names = [socket.gethostname().lower(), socket.getfqdn().lower()]
    return (*EXAMPLES, *dict.fromkeys(each for each in names if _DOMAIN.fullmatch(each)))


# --- keys -------------------------------------------------------------------------------


def _make_keys(directory: Path) -> None:
    for name in SELECTORS:
        path = directory / f"{name}.pem"
        if not path.exists():
            path.touch(mode=0o600, exist_ok=False)
            path.write_bytes(_new_key(name))
    (directory / "keys.zone").write_text(_zone(directory))


def _new_key(name: str) -> bytes:
    key = (
        rsa.generate_private_key(65537, 2048)
        if name == "rsa"
        else ed25519.Ed25519PrivateKey.generate()
    )
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _zone(directory: Path) -> str:
    """The TXT records of both keys for every domain, as a zone file has them."""
    lines = []
    for domain in domains():
        for name, selector in SELECTORS.items():
            record = keys.load(directory / f"{name}.pem").record
            parts = " ".join(f'"{record[at : at + 250]}"' for at in range(0, len(record), 250))
            lines.append(f"{selector}._domainkey.{domain}. IN TXT ( {parts} )\n")
    return "".join(lines)


# --- settings ---------------------------------------------------------------------------


def _write_settings(path: Path, text: str) -> bool:
    """Write them unless the file has been edited; whether it is ours."""
    if path.exists():
        first, _, rest = path.read_text().partition("\n")
        if first != _mark(rest):
            return False
    path.write_text(f"{_mark(text)}\n{text}")
    return True


def _mark(text: str) -> str:
    return _MARK + hashlib.sha256(text.encode()).hexdigest()[:16]


def _settings(site: Site) -> str:
    table = [
        {"domain": domain, "selector": selector, "key": site.var / "keys" / f"{name}.pem"}
        for domain in domains()
        for name, selector in SELECTORS.items()
    ]
    milters = "".join(
        f"\n[[smtpgw.milter]]\nname = {toml(name)}\n"
        f"address = {toml(f'unix:{site.sockets}/{name}.sock')}\n"
        for name in ("clamav", "headers", "dkim")
    )
    rows = "".join(f"  {toml(each)},\n" for each in table)
    return f"""\
# Both halves of Gatepost, as `make run` runs them.  `milterd config` and `smtpgw config`
# print every other key, with its default and meaning.

[metrics]
milterd = {toml(f"unix:{site.sockets}/milterd-metrics.sock")}
smtpgw = {toml(f"unix:{site.sockets}/smtpgw-metrics.sock")}

[milterd]
socket_directory = {toml(site.sockets)}
socket_group = ""

[filter.clamav]
clamd = {toml(f"unix:{site.clamd_socket}")}

[filter.headers]

[filter.dkim]
signing_table = [
{rows}]

[smtpgw]
mydestination = {toml(domains())}
stop_timeout = 1.5

[[smtpgw.listener]]
name = "mx"
address = "127.0.0.1:{site.port}"
{milters}
[smtpgw.queue]
directory = {toml(site.var / "queue")}

[smtpgw.delivery]
default = {toml(f"maildir:{site.var / 'mail'}")}
"""


def _clamd_settings(site: Site) -> str:
    """A clamd that knows the project's own signatures and nothing else."""
    return f"""\
DatabaseDirectory {site.top / "rules"}
LocalSocket {site.clamd_socket}
LocalSocketMode 600
TemporaryDirectory {site.var / "tmp"}
LogFile {site.clamd_log}
LogTime yes
Foreground yes
OfficialDatabaseOnly no
AlertExceedsMax yes
AlertEncrypted yes
StreamMaxLength 100M
MaxThreads 4
"""
