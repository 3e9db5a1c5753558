"""milterd dkim: keys made, shown, checked against a real name server, and rotated."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import dns.rdata
import dns.zone
import pytest
from typer.testing import CliRunner, Result

from milterd.cli import app
from milterd.dkim_check import Published, look
from milterd.dkim_rotate import Step, Times, step
from milterd.filters.dkim import DkimFilter, DkimOptions, NotSigned, Signed
from milterd.filters.setup import SetupError
from milterd.ports import dkim_state
from milterd.ports.dkim_state import Entry, Stage, StateError
from milterd.ports.dkim_zone import line
from milterd.ports.keys import KeyFileError, load
from tests.filters.dkim_world import ED25519, NOW, RSA, Dns, originating, write_key
from tests.peers.dns import DnsServer, dns_server


def milterd(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["dkim", *map(str, arguments)])


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with dns_server() as found:
        yield found


def publish(server: DnsServer, name: str, record: str) -> None:
    parts = " ".join(f'"{record[at : at + 255]}"' for at in range(0, len(record), 255))
    server.zone[name] = {"TXT": [parts or '""']}


def zone_texts(output: str) -> Mapping[str, bytes]:
    """The TXT records of a zone file, as a name server reads it."""
    zone = dns.zone.from_text(output, origin=".", relativize=False, check_origin=False)
    return {
        name.to_text(omit_final_dot=True): b"".join(each.strings)
        for name, _, each in zone.iterate_rdatas("TXT")
    }


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_a_key_is_made_for_its_owner_alone_and_never_over_another(
    kind: str, tmp_path: Path
) -> None:
    os.umask(os.umask(0))
    arguments = ("keygen", "example.net", "-s", "s1", "--type", kind, "-d", tmp_path)
    done = milterd(*arguments)
    assert done.exit_code == 0
    path = tmp_path / "example.net.s1.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    records = zone_texts(re.sub(r"^#.*", "", done.output, flags=re.M))
    assert records == {"s1._domainkey.example.net": load(path).record.encode()}
    assert all(len(each) <= 255 for each in re.findall(r'"(.*?)"', done.output))
    before = path.read_bytes()
    again = milterd(*arguments)
    assert again.exit_code == 78
    assert path.read_bytes() == before
    assert b"PRIVATE" not in done.output.encode()


@pytest.mark.parametrize(
    "arguments",
    [
        ("keygen", "a..b", "-s", "s"),
        ("keygen", "a.b", "-s", "s/x"),
        ("keygen", "a.b", "-s", "s", "--bits", "1024"),
        ("keygen", "a.b", "-s", "s", "--owner", "no-such-user"),
        ("check", "-c", "/none.toml"),
        ("rotate", "a.b", "--every", "soon"),
        ("rotate", "a.b", "--nameserver", "dns.example"),
        ("rotate", "a.b", "--adopt", "s"),
    ],
)
def test_wrong_usage_is_named(arguments: tuple[str, ...], tmp_path: Path) -> None:
    where = ("-d", tmp_path) if arguments[0] in ("keygen", "rotate") else ()
    state = ("--state", tmp_path / "state") if arguments[0] == "rotate" else ()
    done = milterd(*arguments, *where, *state)
    assert done.exit_code == 78
    assert not list(tmp_path.glob("*.pem"))


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    write_key(tmp_path / "r.pem", RSA)
    write_key(tmp_path / "e.pem", ED25519)
    path = tmp_path / "gatepost.toml"
    path.write_text(
        f'[milterd]\nsocket_group = ""\n[filter.dkim]\nsigning_table = [\n'
        f'{{ domain = "example.net", selector = "r", key = "{tmp_path}/r.pem" }},\n'
        f'{{ domain = "example.org", selector = "e", key = "{tmp_path}/e.pem" }},\n]\n'
    )
    path.chmod(0o600)
    return path


def test_records_are_shown_as_a_zone_file_has_them(settings: Path) -> None:
    done = milterd("show", "-c", settings)
    assert zone_texts(done.output) == {
        "r._domainkey.example.net": RSA.record.encode(),
        "e._domainkey.example.org": ED25519.record.encode(),
    }
    one = json.loads(milterd("show", "example.org", "-c", settings, "--json").output)
    assert one == {"records": {"e._domainkey.example.org": ED25519.record}}


def test_long_texts_and_odd_signs_survive_the_zone_file() -> None:
    text = 'a"b\\c;' * 200
    assert zone_texts(line("x.example", text)) == {"x.example": text.encode()}


@pytest.mark.parametrize("verb", ["check", "show"])
def test_a_domain_without_a_key_is_not_said_to_be_well(settings: Path, verb: str) -> None:
    done = milterd(verb, "exmaple.net", "-c", settings)
    assert done.exit_code == 1
    assert "no key of exmaple.net" in done.stderr


def test_a_domain_is_the_same_in_capitals(tmp_path: Path, server: DnsServer) -> None:
    ask = ("--state", tmp_path / "s", "-d", tmp_path, "--nameserver", f"127.0.0.1:{server.port}")
    for domain in ("example.net", "Example.NET"):
        assert milterd("rotate", domain, *ask).exit_code == 1
    assert len(list(tmp_path.glob("*.pem"))) == 1


def test_keys_are_compared_with_dns(settings: Path, server: DnsServer) -> None:
    ask = ("check", "-c", settings, "--nameserver", f"127.0.0.1:{server.port}")
    done = milterd(*ask)
    assert done.exit_code == 1
    assert "r._domainkey.example.net: missing" in done.output
    publish(server, "r._domainkey.example.net", RSA.record.replace("v=DKIM1;", "v=DKIM1; t=y;"))
    publish(server, "e._domainkey.example.org", ED25519.record)
    done = milterd(*ask)
    assert done.exit_code == 0, done.output
    assert "t=y" in done.output
    publish(server, "e._domainkey.example.org", "v=DKIM1; k=ed25519; p=")
    found = json.loads(milterd(*ask, "--json").output)
    assert [each["state"] for each in found["keys"]] == ["published", "revoked"]


@pytest.mark.parametrize(
    ("record", "state"),
    [
        (RSA.record, Published.YES),
        (ED25519.record, Published.OTHER),
        ("v=DKIM1; p=", Published.REVOKED),
        ("v=spf1 -all", Published.UNUSABLE),
        (RSA.record.replace("v=DKIM1", "v=DKIM1; h=sha1"), Published.UNUSABLE),
    ],
    ids=range(5),
)
def test_what_dns_may_have_of_a_key(record: str, state: Published) -> None:
    assert look("x", RSA.record, Dns({"x": record})).state is state


def entry(stage: Stage, selector: str = "old", since: int = NOW, ttl: int = 7200) -> Entry:
    record = RSA.record if selector == "old" else ED25519.record
    return Entry("example.net", selector, "rsa", f"/k/{selector}", record, stage, since, ttl)


def run(entries: tuple[Entry, ...], now: int, dns: Dns, **times: int) -> Step:
    return step(
        entries, "example.net", "rsa", now=now, dns=dns, times=Times(**times),
        make=lambda selector: Entry(
            "example.net", selector, "rsa", f"/k/{selector}", ED25519.record, Stage.MADE, now
        ),
    )  # fmt: skip


def stages(found: Step) -> dict[str, str]:
    return {each.selector: each.stage.value for each in found.entries}


def test_a_rotation_from_end_to_end() -> None:
    """Each step only when DNS has what it needs, and no sooner than caches allow."""
    other = Entry("example.org", "x", "rsa", "/k", "r", Stage.SIGNING, NOW)
    dns = Dns({"old._domainkey.example.net": RSA.record})
    found = run((other, entry(Stage.SIGNING, since=NOW - 99)), NOW, dns, every=100)
    assert (found.entries[1:], found.wait_until) == (
        (entry(Stage.SIGNING, since=NOW - 99),),
        NOW + 1,
    )
    found = run((other, entry(Stage.SIGNING, since=NOW - 100)), NOW, dns, every=100)
    new = "20251121"
    assert stages(found) == {"x": "signing", "old": "signing", new: "made"}
    assert "publish: 20251121._domainkey.example.net. 3600 IN TXT" in found.todo
    again = run(found.entries, NOW + 10, dns)
    assert again.entries == found.entries
    assert "missing" in again.todo
    dns.records[f"{new}._domainkey.example.net"] = ED25519.record
    found = run(found.entries, NOW + 20, dns)
    assert stages(found)[new] == "published"
    assert found.wait_until == NOW + 20 + 3600
    assert run(found.entries, NOW + 3619, dns).entries == found.entries
    switched = run(found.entries, NOW + 3620, dns)
    assert stages(switched) == {"x": "signing", "old": "retiring", new: "signing"}
    early = run(switched.entries, NOW + 3620 + 7 * 86_400 - 1, dns)
    assert early.entries == switched.entries
    late = NOW + 3620 + 7 * 86_400
    still = run(switched.entries, late, dns)
    assert stages(still)["old"] == "retiring"
    assert "take old._domainkey.example.net out of DNS" in still.todo
    dns.records["old._domainkey.example.net"] = "v=DKIM1; p="
    gone = run(switched.entries, late, dns)
    assert stages(gone) == {"x": "signing", "old": "retired", new: "signing"}
    assert gone.entries[0] == other


def test_a_record_that_goes_away_before_the_switch_stops_it() -> None:
    found = run((entry(Stage.SIGNING), entry(Stage.PUBLISHED, "new", ttl=60)), NOW + 3600, Dns({}))
    assert stages(found) == {"old": "signing", "new": "made"}
    assert found.todo.startswith("publish: ")


def test_the_filter_signs_with_the_key_that_has_come_so_far(tmp_path: Path) -> None:
    old, new = write_key(tmp_path / "old", RSA), write_key(tmp_path / "new", ED25519)
    state = tmp_path / "state.json"

    def keys(first: Stage, second: Stage) -> None:
        dkim_state.write(
            state,
            (
                Entry("example.net", "old", "rsa", str(old), RSA.record, first, NOW),
                Entry("example.net", "new", "rsa", str(new), ED25519.record, second, NOW),
            ),
        )

    filter_ = DkimFilter(DkimOptions(rotation=state), lambda: NOW)
    mail = originating(b"From: a@example.net\r\n\r\nx\r\n")

    def selectors() -> list[str]:
        facts = filter_.gather(mail)
        if isinstance(facts, NotSigned):
            return [facts.why]
        assert isinstance(facts, Signed)
        return [each[0] for each in facts.signatures]

    assert selectors() == ["no-key"]
    keys(Stage.SIGNING, Stage.PUBLISHED)
    assert selectors() == ["old"]
    keys(Stage.RETIRING, Stage.SIGNING)
    assert selectors() == ["new"]
    state.write_text("{")
    assert selectors() == ["table-unavailable"]
    with pytest.raises(SetupError):
        DkimFilter(DkimOptions(rotation=state))


def test_rotation_by_the_command(tmp_path: Path, server: DnsServer) -> None:
    state = tmp_path / "state.json"
    ask = ("rotate", "example.net", "--state", state, "-d", tmp_path, "--json", "--settle", "0",
           "--retire", "0", "--nameserver", f"127.0.0.1:{server.port}")  # fmt: skip
    server.ttl = 0
    write_key(tmp_path / "old.pem", RSA)
    adopted = milterd(*ask, "--adopt", f"old={tmp_path}/old.pem")
    assert json.loads(adopted.output)["stage"] == "signing"
    assert milterd(*ask, "--adopt", f"old={tmp_path}/old.pem").exit_code == 78
    made = milterd(*ask)
    assert made.exit_code == 1
    found = json.loads(made.output)
    assert found["stage"] == "made"
    assert load(Path(found["key"])).record == found["record"]
    publish(server, f"{found['selector']}._domainkey.example.net", found["record"])
    for expected in ("published", "signing", "retired", "made"):
        now = json.loads(milterd(*ask).output)
        assert now["stage"] == expected
    assert now["selector"] == found["selector"] + "a"


def test_a_key_file_left_by_a_crash_is_passed_over(tmp_path: Path, server: DnsServer) -> None:
    ask = ("rotate", "example.net", "--state", tmp_path / "s", "-d", tmp_path, "--json",
           "--type", "ed25519", "--nameserver", f"127.0.0.1:{server.port}")  # fmt: skip
    first = json.loads(milterd(*ask).output)
    (tmp_path / "s").unlink()
    second = json.loads(milterd(*ask).output)
    assert first["selector"] != second["selector"]
    assert load(Path(first["key"]))


def test_two_rotations_do_not_run_at_once(tmp_path: Path) -> None:
    with dkim_state.locked(tmp_path / "s"):
        done = milterd("rotate", "example.net", "--state", tmp_path / "s", "-d", tmp_path)
    assert done.exit_code == 78
    assert not list(tmp_path.glob("*.pem"))


@pytest.mark.parametrize("text", ["", "[]", '{"keys": [1]}', '{"keys": [{"domain": 1}]}', "\xff"])
def test_a_state_file_that_cannot_be_used_is_said_so(text: str, tmp_path: Path) -> None:
    (tmp_path / "s").write_text(text, "latin-1")
    with pytest.raises(StateError, match="state file"):
        dkim_state.read(tmp_path / "s")


def test_a_key_from_a_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_key(tmp_path / "dkim", ED25519)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load(Path("credential:dkim")).record == ED25519.record
    for bad in ("credential:", "credential:..", "credential:x/y", "credential:none"):
        with pytest.raises(KeyFileError):
            load(Path(bad))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(KeyFileError, match="LoadCredential=dkim"):
        load(Path("credential:dkim"))


def test_settings_say_why_there_is_no_length(settings: Path) -> None:
    settings.write_text(settings.read_text() + "body_length_limit = true\n")
    done = CliRunner().invoke(app, ["check", "-c", str(settings)])
    assert done.exit_code == 78
    assert "RFC 6376 section 8.2" in done.output


@pytest.mark.parametrize(
    ("line_", "expected"),
    [
        ('oversign = ["Sübject"]', "the name of a header field"),
        ('sender_headers = ["Sender:"]', "the name of a header field"),
        ('authserv_id = "müx"', "expected a host name"),
        ('canonicalization = "nowsp"', "relaxed/relaxed"),
        ('nameservers = ["dns.example"]', "expected an address"),
        ('opendkim_key_table = "file:/x"', "expected both"),
        ('on_key_error = "reject"', "tempfail"),
    ],
)
def test_wrong_settings_are_named(settings: Path, line_: str, expected: str) -> None:
    settings.write_text(settings.read_text() + line_ + "\n")
    done = CliRunner().invoke(app, ["check", "-c", str(settings)])
    assert done.exit_code == 78
    assert expected in done.output
