"""`smtpgw route`: what becomes of a recipient, which line says so, and what the exit code is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest

from smtpgw import route_show

COMMAND = (sys.executable, "-m", "smtpgw", "route")
SETTINGS = """
[smtpgw]
myhostname = "mx.example.net"
mydestination = "$myhostname, example.net"
virtual_alias_domains = "va.example"
relay_domains = "relay.example"
recipient_delimiter = "+"
virtual_alias_maps = "texthash:virtual, inline:{loop1@va.example=loop2@va.example}"
alias_maps = "texthash:aliases"
relay_recipient_maps = "inline:{u@relay.example=x}"
canonical_maps = "inline:{old@x.example=new@x.example}"
recipient_bcc_maps = "inline:{ann@example.net=archive@relay.example}"
smtp_generic_maps = "inline:{ann@example.net=outside@example.org}"
transport_maps = "texthash:transport"
sender_dependent_relayhost_maps = "inline:{s@x.example=[sdr.example]:587}"
tables.directory = "PLACE"
[smtpgw.services.slow]
deliver = "smtp"
destination_concurrency_limit = 2
destination_rate_delay = "2s"
[smtpgw.delivery]
smtp_tls_security_level = "may"
[smtpgw.tls_policy]
"[sdr.example]:587" = "secure"
"""
FILES = {
    "virtual": "# ours\nteam@va.example ann@example.net, bob@y.example\n"
    "loop2@va.example loop1@va.example\nnowhere@va.example gone@va.example\n",
    "aliases": 'list: ann, bob@y.example\nowner-list: root\ncommand: "|cat"\n',
    "transport": "slow.example slow:\nwait.example retry:4.7.1 later\n",
}


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    file = tmp_path / "gatepost.toml"
    file.write_text(SETTINGS.replace("PLACE", str(tmp_path)))
    return file


def route(file: Path, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "-c", str(file), *words]
    return subprocess.run(
        command, input=given, capture_output=True, text=True, check=False, timeout=100
    )


class Facts(Protocol):
    """What the command prints as JSON."""

    def __call__(self, file: Path, address: str, sender: str = "", status: int = 0) -> Any: ...


@pytest.fixture
def facts(capsys: pytest.CaptureFixture[str]) -> Facts:
    """The command without a process of its own."""

    def ask(file: Path, address: str, sender: str = "", status: int = 0) -> Any:
        assert route_show.run(file, address, sender, as_json=True) == status
        return json.loads(capsys.readouterr().out)

    return ask


def test_every_step_names_its_line(settings: Path, facts: Facts) -> None:
    found = facts(settings, "team@va.example", "s@x.example")
    place = settings.parent
    assert (found["address_class"], found["known"]) == ("virtual alias", f"{place}/virtual:2")
    assert (found["stranger"], found["own"]) == ("250 2.1.5 Ok", "250 2.1.5 Ok")
    assert found["rewritten"][-1] == {
        "rule": "virtual_alias_maps", "address": "team@va.example", "where": f"{place}/virtual:2",
        "became": ["ann@example.net", "bob@y.example"],
    }  # fmt: skip
    ann, bob = found["recipients"]
    assert (ann["address_class"], ann["delivery"]) == ("local", "lmtp:unix:/run/dovecot/lmtp")
    assert (ann["tls"], ann["generic_recipient"]) == ([], "")
    assert (bob["transport"], bob["nexthop"]) == ("smtp", "[sdr.example]:587")
    assert [each["rule"] for each in bob["steps"]] == [
        "default_transport", "sender_dependent_relayhost_maps",
    ]  # fmt: skip
    assert bob["tls"] == [
        {"nexthop": "[sdr.example]:587", "level": "secure",
         "match": ["sdr.example", ".sdr.example"]}
    ]  # fmt: skip


def test_limits_generic_addresses_and_copies(settings: Path, facts: Facts) -> None:
    found = facts(settings, "u@slow.example", "ann@example.net")
    (way,) = found["recipients"]
    assert way["delivery"] == "slow:slow.example (smtp)"
    assert way["limits"] == {
        "concurrency": 1, "recipients": 50, "destination_rate_delay": 2.0,
        "transport_rate_delay": 0.0,
    }  # fmt: skip
    assert (way["generic_sender"], way["generic_recipient"]) == (
        "outside@example.org", "u@slow.example",
    )  # fmt: skip
    assert found["stranger"] == "554 5.7.1 <u@slow.example>: Relay access denied"
    assert not found["relayed"]
    copied = facts(settings, "ann+news@example.net")
    assert [each["recipient"] for each in copied["recipients"]] == [
        "ann+news@example.net", "archive@relay.example",
    ]  # fmt: skip
    assert copied["rewritten"][0]["rule"] == "recipient_bcc_maps"


def test_aliases_of_this_machine(settings: Path, facts: Facts) -> None:
    found = facts(settings, "list@example.net", "s@x.example")
    ways = {each["recipient"]: each["sender"] for each in found["recipients"]}
    assert ways == {
        "ann@mx.example.net": "owner-list@mx.example.net",
        "bob@y.example": "owner-list@mx.example.net",
    }  # fmt: skip
    assert f"{settings.parent}/aliases:1" in [each["where"] for each in found["rewritten"]]
    refused = facts(settings, "command@example.net", status=1)
    assert refused["outcome"] == "bounced"
    assert "delivery to a command is refused" in refused["recipients"][0]["delivery"]


@pytest.mark.parametrize(
    ("address", "status", "outcome", "said"),
    [
        ("u@relay.example", 0, "delivered", "250 2.1.5 Ok"),
        ("nobody@relay.example", 1, "refused", "User unknown in relay recipient table"),
        ("nobody@va.example", 1, "refused", "User unknown in virtual alias table"),
        ("nowhere@va.example", 1, "bounced", "250 2.1.5 Ok"),
        ("u@-bad", 1, "refused", "501 5.1.3"),
        ("u@wait.example", 75, "waits", "450 4.7.1"),
        ("loop1@va.example", 75, "waits", "250 2.1.5 Ok"),
    ],
)
def test_exit_codes(
    settings: Path, facts: Facts, address: str, status: int, outcome: str, said: str
) -> None:
    found = facts(settings, address, status=status)
    assert found["outcome"] == outcome
    assert said in found["own"]


def test_a_table_that_cannot_answer(settings: Path, facts: Facts) -> None:
    text = settings.read_text().replace('"inline:{u@relay.example=x}"', '"fail:x"')
    settings.write_text(text)
    found = facts(settings, "u@relay.example", status=75)
    assert found["error"].startswith("fail:x")
    assert found["stranger"] == "451 4.3.0 <u@relay.example>: Temporary lookup failure"
    done = route(settings, "u@relay.example")
    assert "fail:x" in done.stdout


def test_settings_that_cannot_be_used(settings: Path) -> None:
    settings.write_text(settings.read_text().replace("texthash:virtual", "texthash:no-such-file"))
    done = route(settings, "u@relay.example")
    assert (done.returncode, done.stdout) == (78, "")
    assert "no-such-file" in done.stderr


def test_thousands_of_addresses_in_one_run(settings: Path) -> None:
    lines = [f"u{number}@y.example\ts@x.example" for number in range(3000)]
    given = "\n".join([*lines, "team@va.example", "nobody@relay.example"]) + "\n"
    done = route(settings, "-", "--json", given=given)
    assert done.returncode == 1
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["address"] for each in found] == [
        each.partition("\t")[0] for each in given.splitlines()
    ]
    assert {each["recipients"][0]["nexthop"] for each in found[:3000]} == {"[sdr.example]:587"}
    assert [each["outcome"] for each in found[2999:]] == ["delivered", "delivered", "refused"]


def test_what_people_read(settings: Path) -> None:
    done = route(settings, "u@slow.example", "--from", "ann@example.net")
    place = settings.parent
    assert done.stdout.splitlines() == [
        "u@slow.example from <ann@example.net>: delivered",
        "  class                default",
        "    default_transport  smtp",
        f"    transport_maps     slow:  ({place}/transport:1)",
        "  known                none of our domains",
        "  strangers            554 5.7.1 <u@slow.example>: Relay access denied",
        "  own clients          250 2.1.5 Ok",
        "  to                   u@slow.example: delivered",
        "    class              default",
        "    default_transport  smtp",
        f"    transport_maps     slow:  ({place}/transport:1)",
        "    delivery           slow:slow.example (smtp)",
        "    TLS                slow.example: may",
        "    limits             1 at once to a destination, 50 recipients each, 2 s between two to "
        "a destination",
        "    generic            <outside@example.org> to <u@slow.example>",
    ]


def test_what_check_prints_is_no_markup(settings: Path) -> None:
    command = [sys.executable, "-m", "smtpgw", "check", "-c", str(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert "no [[smtpgw.listener]]" in done.stdout
