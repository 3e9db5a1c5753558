"""The commands `milterd dkim`: keys made, shown, compared with DNS, and replaced."""

from __future__ import annotations

import json
import pwd
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from milterd.base import durations
from milterd.base.toml_file import ConfigError
from milterd.config import DEFAULT_FILE, load
from milterd.dkim_check import Finding, Published, look
from milterd.dkim_rotate import Step, Times, step
from milterd.filters.dkim import DkimFilter
from milterd.filters.setup import SetupError
from milterd.ports import dkim_make, dkim_state
from milterd.ports import keys as key_files
from milterd.ports.dkim_dns import DnsOptions, DnsTexts, parse_server
from milterd.ports.dkim_state import Entry, Stage, StateError
from milterd.ports.dkim_zone import line
from milterd.signed.dkim_names import key_name

CONFIG_ERROR = 78
KEYS = Path("/etc/gatepost/keys")
STATE = Path("/var/lib/gatepost/dkim/rotation.json")

app = typer.Typer()

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="The settings file.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DomainArgument = Annotated[str, typer.Argument(metavar="DOMAIN", help="The signing domain, d=.")]
KindOption = Annotated[
    Literal["rsa", "ed25519"], typer.Option("--type", help="Kind of the key: rsa or ed25519.")
]
BitsOption = Annotated[int, typer.Option("--bits", help="Size of an RSA key.")]
OwnerOption = Annotated[
    str, typer.Option("--owner", metavar="USER", help="Who owns the key file; empty: who you are.")
]
DirectoryOption = Annotated[
    Path, typer.Option("--directory", "-d", metavar="DIR", help="Where key files are.")
]
ServersOption = Annotated[
    list[str] | None,
    typer.Option("--nameserver", metavar="ADDRESS", help="Ask this server; several may be given."),
]


@app.command(epilog="Example: milterd dkim keygen example.net --selector s1")
def keygen(
    domain: DomainArgument,
    selector: Annotated[str, typer.Option("--selector", "-s", help="The key's name in DNS, s=.")],
    kind: KindOption = "rsa",
    bits: BitsOption = dkim_make.USUAL_BITS,
    directory: DirectoryOption = KEYS,
    owner: OwnerOption = "",
    as_json: JsonOption = False,
) -> None:
    """Make a key, and print its DNS record and its row of the settings.

    The file has mode 0600 and is never written over another.
    """
    name, domain = _name(domain, selector), domain.lower()
    path = directory / f"{domain}.{selector}.pem"
    key = _make(path, kind, bits, owner)
    if as_json:
        _print_json({"key": str(path), "name": name, "record": key.record})
        return
    out = _out()
    out.out(f"; {path}\n{line(name, key.record)}")
    out.out(
        f'# signing_table = [{{ domain = "{domain}", selector = "{selector}", key = "{path}" }}]'
    )


@app.command(epilog="Example: milterd dkim show example.net --config gatepost.toml")
def show(
    domain: Annotated[
        str, typer.Argument(metavar="[DOMAIN]", help="This domain's keys only.")
    ] = "",
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Print the DNS records of the keys in the settings, as a zone file has them.

    Texts are cut into strings of 255 octets, as DNS wants them.  Exits with 1 if there is none.
    """
    records = _records(config, domain)
    if as_json:
        _print_json({"records": records})
    for name, record in records.items() if not as_json else ():
        _out().out(line(name, record))
    if not records:
        raise _nothing(config, domain)


@app.command(epilog="Example: milterd dkim check --config gatepost.toml --json")
def check(
    domain: Annotated[
        str, typer.Argument(metavar="[DOMAIN]", help="This domain's keys only.")
    ] = "",
    config: ConfigOption = DEFAULT_FILE,
    servers: ServersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the keys in the settings with what DNS has.

    Exits with 0 when all are published, 1 when one is not or there is no key, 78 with settings that
    cannot be used.
    """
    dns = _dns(servers)
    found = [look(name, text, dns) for name, text in _records(config, domain).items()]
    if as_json:
        _print_json({"keys": [asdict(each) | {"state": each.state.value} for each in found]})
    else:
        _show(found)
    if not found:
        raise _nothing(config, domain)
    raise typer.Exit(0 if all(each.state is Published.YES for each in found) else 1)


@app.command(epilog="Example: milterd dkim rotate example.net --every 180d")
def rotate(
    domain: DomainArgument,
    kind: KindOption = "rsa",
    bits: BitsOption = dkim_make.USUAL_BITS,
    state: Annotated[
        Path, typer.Option("--state", metavar="FILE", help="The state file (rotation_file).")
    ] = STATE,
    directory: DirectoryOption = KEYS,
    owner: OwnerOption = "",
    servers: ServersOption = None,
    every: Annotated[
        str, typer.Option("--every", help="Make the next key when the signing one is so old.")
    ] = "0",
    settle: Annotated[
        str, typer.Option("--settle", help="From a record's first sight to its use, at least.")
    ] = "1h",
    retire: Annotated[
        str, typer.Option("--retire", help="From a key's last signature to its record's end.")
    ] = "7d",
    adopt: Annotated[
        str,
        typer.Option("--adopt", metavar="SELECTOR=FILE", help="Enter a key that signs already."),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Take the next step of replacing a domain's key, if it is time for it.

    made, published, signing, retiring, retired: run it again and again, by hand or from cron
    with --every.  It says what to do in DNS and checks that it was done.  Exits with 1 when
    something is to be done in DNS.
    """
    _name(domain, "s")
    domain = domain.lower()  # as signing has it: else it would be another domain with a key more
    now, times = int(time.time()), _times(every, settle, retire)

    def make(selector: str) -> Entry:
        path = directory / f"{domain}.{selector}.pem"
        record = _make(path, kind, bits, owner).record
        return Entry(domain, selector, kind, str(path), record, Stage.MADE, now)

    try:
        with dkim_state.locked(state):
            entries = dkim_state.read(state)
            if adopt:
                found = _adopted(domain, adopt, now, entries)
            else:
                # A key whose making was cut short has left its file.
                files = directory.glob(f"{domain}.*.pem")
                taken = frozenset(each.name[len(domain) + 1 : -4] for each in files)
                found = step(
                    entries,
                    domain,
                    kind,
                    now=now,
                    dns=_dns(servers),
                    times=times,
                    make=make,
                    taken=taken,
                )
            dkim_state.write(state, found.entries)
    except StateError as error:
        raise _refused(str(error)) from None
    _tell(found, as_json)
    raise typer.Exit(1 if found.todo else 0)


def _adopted(domain: str, text: str, now: int, entries: Sequence[Entry]) -> Step:
    selector, equals, file = text.partition("=")
    _name(domain, selector)
    if not equals or not file:
        raise _refused(f"--adopt {text!r}: expected SELECTOR=FILE")
    try:
        key = key_files.load(Path(file))
    except key_files.KeyFileError as error:
        raise _refused(str(error)) from None
    kind = key.algorithm.partition("-")[0]
    if any((each.domain, each.algorithm) == (domain, kind) for each in entries):
        raise _refused(f"{domain} has {kind} keys in the state file already")
    entry = Entry(domain, selector, kind, file, key.record, Stage.SIGNING, now)
    return Step((*entries, entry), entry, f"{selector} signs")


def _tell(found: Step, as_json: bool) -> None:
    entry = found.entry
    if as_json:
        shown: dict[str, Any] = {"did": found.did, "todo": found.todo}
        if entry is not None:
            shown |= asdict(entry) | {"stage": entry.stage.value}
        _print_json(shown | {"wait_until": found.wait_until})
        return
    out = _out()
    if entry is not None:
        out.out(f"{entry.domain} {entry.selector}: {entry.stage.value}")
    for text in (found.did, found.todo):
        if text:
            out.out(text)
    if found.wait_until:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(found.wait_until))
        out.out(f"nothing more to do before {when} UTC")


def _show(found: Sequence[Finding]) -> None:
    out = _out()
    for each in found:
        out.out(f"{each.name}: {each.state.value}" + (f" ({each.why})" if each.why else ""))
        for note in each.notes:
            out.out(f"  {note}")


def _nothing(config: Path, domain: str) -> typer.Exit:
    """What a domain that is misspelled comes to, and tables that only an author can be asked of."""
    of = f" of {domain}" if domain else ""
    problem = (
        f"{config}: no key{of} is known without an author; a domain's own row has one, or a key "
        "table in a file"
    )
    Console(stderr=True).print(problem, markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(1)


def _records(config: Path, domain: str) -> dict[str, str]:
    """The records of the keys in a settings file."""
    try:
        table = load(config).filter.dkim
    except ConfigError as error:
        raise _refused(str(error)) from None
    if table is None:
        raise _refused(f"{config}: no table [filter.dkim]")
    try:
        found = DkimFilter(table.options()).records()
    except SetupError as error:
        raise _refused(str(error)) from None
    end = f"._domainkey.{domain.lower()}"
    return {name: text for name, text in found.items() if not domain or name.endswith(end)}


def _make(path: Path, kind: str, bits: int, owner: str) -> key_files.SigningKey:
    try:
        user = pwd.getpwnam(owner) if owner else None
        key = dkim_make.make(kind, bits)
        dkim_make.store(path, key, (user.pw_uid, user.pw_gid) if user else None)
    except KeyError:
        raise _refused(f"--owner {owner!r}: expected a user of this machine") from None
    except ValueError as error:
        raise _refused(str(error)) from None
    except OSError as error:
        raise _refused(f"{path}: {error.strerror}") from None
    return key


def _name(domain: str, selector: str) -> str:
    name = key_name(domain, selector)
    if name is None:
        raise _refused(f"{selector}._domainkey.{domain} is no name in DNS")
    return name


def _times(every: str, settle: str, retire: str) -> Times:
    try:
        seconds = [int(durations.seconds(each)) for each in (settle, retire, every)]
    except ValueError as error:
        raise _refused(str(error)) from None
    return Times(*seconds)


def _dns(servers: Sequence[str] | None) -> DnsTexts:
    try:
        given = tuple(map(parse_server, servers or ()))
    except ValueError as error:
        raise _refused(f"--nameserver: {error}") from None
    return DnsTexts(DnsOptions(given, cache=0))


def _refused(problem: str) -> typer.Exit:
    Console(stderr=True).print(problem, markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(CONFIG_ERROR)


def _print_json(data: object) -> None:
    _out().out(json.dumps(data, default=str))


def _out() -> Console:
    return Console(soft_wrap=True, highlight=False)
