"""The settings of both halves as one file, and the page about them."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

from milterd.base import reference, settings
from milterd.base.toml_file import ConfigError
from milterd.config import MilterdConfig
from smtpgw import config, listening, supervisor, wiring
from smtpgw.cli import app
from smtpgw.config import GatewaySettings

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def default_file() -> str:
    done = CliRunner().invoke(app, ["config"])
    assert done.exit_code == 0
    return done.output


def test_the_printed_file_holds_both_halves_once_and_is_the_default(default_file: str) -> None:
    tables = re.findall(r"^#?\[+([a-z._]+)", default_file, re.MULTILINE)
    assert len(tables) == len(set(tables))
    assert {"log", "metrics", "milterd", "filter.clamav", "smtpgw", "smtpgw.queue"} <= set(tables)
    assert settings.parse(default_file, GatewaySettings) == GatewaySettings()
    assert settings.parse(default_file, MilterdConfig) == MilterdConfig()


def test_every_line_of_the_printed_file_can_be_put_in_force(default_file: str) -> None:
    lines = [
        line[1:] if line.startswith("#") and line[1:2] != " " else line
        for line in default_file.split("\n")
    ]
    text = "\n".join(lines)
    loaded = settings.parse(text, GatewaySettings).smtpgw
    assert loaded.listener[0].name == "mx"
    assert loaded.milter[0].name == "clamav"
    assert settings.parse(text, MilterdConfig)


def test_the_page_about_settings_is_current() -> None:
    """If not: python -m milterd.base.reference milterd.config:MilterdConfig
    smtpgw.config:GatewaySettings > docs/configuration.md"""
    page = (DOCS / "configuration.md").read_text()
    assert page == reference.page(MilterdConfig, GatewaySettings)


def test_every_key_is_explained() -> None:
    for name, field in wiring_fields(GatewaySettings):
        assert field.description, name


def wiring_fields(model: type[settings.Table]) -> list[tuple[str, FieldInfo]]:
    """Every key of every table below a model."""
    found = []
    for name, field in model.model_fields.items():
        inner = settings._models(field.annotation) or [
            one
            for each in getattr(field.annotation, "__args__", ())
            for one in settings._models(each)
        ]
        if inner:
            found += wiring_fields(inner[0])
        else:
            found.append((f"{model.__name__}.{name}", field))
    return found


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ('mydestination = ["exa mple"]', "smtpgw.mydestination[0]", "a domain"),
        ('mynetworks = ["192.0.2.1/24"]', "smtpgw.mynetworks[0]", "a network"),
        ("workers = 0", "smtpgw.workers", "greater than or equal to 1"),
        ("smtpd_timeout = -1", "smtpgw.smtpd_timeout", "seconds"),
        ('smtpd_timeout = "5 minutes"', "smtpgw.smtpd_timeout", "seconds"),
        ("message_size_limit = 2000\n", "smtpgw", "message_size_limit above header_size_limit"),
        ("[[smtpgw.listener]]\nname = 'a b'\naddress = ':25'", "smtpgw.listener[0].name", "a name"),
        (
            "[[smtpgw.listener]]\nname = 'a'\naddress = ':25'\nmilters = ['b']",
            "smtpgw",
            "no milter is called 'b'",
        ),
        (
            "[[smtpgw.listener]]\nname = 'a'\naddress = ':25'\ntls_cert = '/x'",
            "smtpgw.listener[0]",
            "both tls_cert and tls_key",
        ),
        (
            "[[smtpgw.milter]]\nname='a'\naddress='unix:/x'\n[[smtpgw.milter]]\nname='a'\n"
            "address='unix:/x'",
            "smtpgw.milter",
            "every name once",
        ),
        (
            "[[smtpgw.milter]]\nname='a'\naddress='unix:/x'\ndefault_action='acept'",
            "smtpgw.milter[0].default_action",
            "'accept'",
        ),
        ("[smtpgw.delivery]\ndefault = 'lmtp:inet:x:0'", "smtpgw.delivery.default", "HOST:PORT"),
        ("[smtpgw.transport]\n'example.net' = 'uucp:x'", 'smtpgw.transport."example.net"', "lmtp"),
        ("[smtpgw.queue]\nminimal_backoff_time = '2h'", "smtpgw.queue", "minimal_backoff_time"),
    ],
)
def test_what_cannot_be_meant_is_refused_where_it_stands(
    text: str, key: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        settings.parse(f"[smtpgw]\n{text}", GatewaySettings)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert expected in problem.expected
    assert problem.line


@pytest.mark.parametrize(
    ("text", "key", "found", "expected", "nearest"),
    [
        ("myhostname = 'a b'", "myhostname", '"a b"', "a domain", ""),
        ("mydomain = 'a..b'", "mydomain", '"a..b"', "a domain", ""),
        ("virtual_alias_maps = 'hsh:/x'", "virtual_alias_maps", '"hsh:/x"', "hash:", ""),
        (
            "virtual_mailbox_maps = ['hash:/x', 'mysq:/y']",
            "virtual_mailbox_maps[1]", '"mysq:/y"', "mysql:", "",
        ),
        ("relay_domains = 'a.example, sqlit:/x'", "relay_domains", '"sqlit:/x"', "sqlite:", ""),
        ("mynetworks = 'cdir:/x'", "mynetworks", '"cdir:/x"', "cidr:", ""),
        ("mynetworks = '10.0.0.1/8'", "mynetworks", '"10.0.0.1/8"', "host bits", ""),
        (
            "virtual_alias_maps = '$virtual_mailbx_maps'",
            "virtual_alias_maps", "$virtual_mailbx_maps, which no setting", "the name of one",
            "$virtual_mailbox_maps",
        ),
        ("myorigin = '${mydomain'", "myorigin", "'${mydomain'", "a '}' for the '{'", ""),
        ("myorigin = '${mydomain?x'", "myorigin", "'${mydomain?x'", "a '}' for the '{'", ""),
        ("myorigin = '$(mydomain}'", "myorigin", "'$(mydomain}'", "a ')' for the '('", ""),
        ("relayhost = '${a b}'", "relayhost", "${a b}", "${name}, ${name?text}", ""),
        (
            "relayhost = '$relay_transport'\nrelay_transport = 'smtp:$relayhost'",
            "relay_transport", "$relay_transport -> $relayhost -> $relay_transport",
            "do not stand for themselves", "",
        ),
        (
            "relayhost = '[x y'\nmydestination = '$relayhost'",
            "mydestination", '"[x"', "a domain", "",
        ),
        (
            "myorigin = 'texthsh:/x'\nvirtual_alias_maps = '$myorigin'",
            "virtual_alias_maps", '"texthsh:/x"', "texthash:", "",
        ),
        (
            "canonical_classes = ['envelope']",
            "canonical_classes[0]", '"envelope"', "header_sender", "",
        ),
    ],
)  # fmt: skip
def test_addresses_and_tables_that_cannot_be_meant(
    text: str, key: str, found: str, expected: str, nearest: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(f"\n\n[smtpgw]\n{text}\n", file="gatepost.toml")
    problem = next(each for each in caught.value.problems if each.key == f"smtpgw.{key}")
    assert problem.file == "gatepost.toml"
    assert problem.line == 4 + text[: text.index(key.partition("[")[0] + " =")].count("\n")
    assert problem.found.startswith(found)
    assert expected in problem.expected
    assert problem.nearest == nearest
    assert len({each.key for each in caught.value.problems}) == len(caught.value.problems)


def test_names_in_settings_are_looked_at_by_check_and_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "gatepost.toml"
    file.write_text("[smtpgw]\nvirtual_alias_maps = '$nothing'\nmyorigin = '$mydomain'\n")
    done = CliRunner().invoke(app, ["check", "--config", str(file), "--json"])
    assert done.exit_code == 78
    (finding,) = json.loads(done.stdout)["findings"]
    assert f"{file}:2: smtpgw.virtual_alias_maps: found $nothing" in finding["detail"]
    with pytest.raises(ConfigError, match="nothing"):
        supervisor.run(file)


def test_a_list_may_be_written_as_in_main_cf_or_as_an_array() -> None:
    texts = (
        'mydestination = "a.example, $myhostname b.example, hash:/x, !c.example, /etc/file"',
        'mydestination = ["a.example", "$myhostname", "b.example", "hash:/x", "!c.example",'
        ' "/etc/file"]',
    )
    one, other = (config.parse(f"[smtpgw]\n{each}\n").smtpgw.mydestination for each in texts)
    assert one == other


def test_certificates_that_do_not_serve_are_found_before_they_are_needed(tmp_path: Path) -> None:
    (tmp_path / "cert").write_text("no certificate")
    text = (
        f"[[smtpgw.listener]]\nname='mx'\naddress='127.0.0.1:25'\n"
        f"tls_cert='{tmp_path}/cert'\ntls_key='{tmp_path}/cert'"
    )
    with pytest.raises(ConfigError, match="listener mx: tls_cert"):
        wiring.check(settings.parse(text, GatewaySettings).smtpgw)


def test_a_listener_asks_the_milters_it_names_in_their_tables_order() -> None:
    text = "".join(f"[[smtpgw.milter]]\nname='{n}'\naddress='unix:/{n}'\n" for n in "abc")
    text += "[[smtpgw.listener]]\nname='mx'\naddress=':25'\nmilters=['c', 'a']\n"
    text += "[[smtpgw.listener]]\nname='all'\naddress=':26'\n"
    loaded = settings.parse(text, GatewaySettings).smtpgw
    names = [[each.name for each in wiring.milters(loaded, one)] for one in loaded.listener]
    assert names == [["a", "c"], ["a", "b", "c"]]


def test_passed_sockets_go_to_listeners_by_name_and_then_in_order() -> None:
    text = "".join(f"[[smtpgw.listener]]\nname='{n}'\naddress=':25'\n" for n in "abc")
    loaded = settings.parse(text, GatewaySettings)
    one, two, three, four = (socket.socket() for _ in range(4))
    given = [("unknown", one), ("a", two), ("unknown", three)]
    assert listening.assign(loaded, given) == {"a": two, "b": one, "c": three}
    with pytest.raises(listening.StartError, match="4 sockets were passed, for 3 listeners"):
        listening.assign(loaded, [*given, ("unknown", four)])
    for each in (one, two, three, four):
        each.close()


@pytest.mark.parametrize(
    ("table", "key", "unit"),
    [
        ("smtpgw.queue", "maximal_queue_lifetime", "days"),
        ("smtpgw.queue", "bounce_queue_lifetime", "days"),
        ("smtpgw.queue", "delay_warning_time", "hours"),
        ("smtpgw", "address_verify_positive_expire_time", "days"),
        ("smtpgw", "address_verify_negative_refresh_time", "hours"),
        ("smtpgw", "postscreen_greet_ttl", "days"),
        ("smtpgw.stress", "postscreen_dnsbl_max_ttl", "hours"),
    ],
)
def test_a_number_that_postfix_takes_for_days_needs_a_unit(table: str, key: str, unit: str) -> None:
    """Else the 5 that a postmaster brings along would return his mail after five seconds."""
    for bare in ("5", '"5"'):
        with pytest.raises(ConfigError) as error:
            config.parse(f"[{table}]\n{key} = {bare}\n")
        (problem,) = error.value.problems
        assert (problem.line, f"it would be {unit} in Postfix" in str(error.value)) == (2, True)
    found = config.parse(f'[{table}]\n{key} = "5h"\n')
    assert config.Loaded.model_validate_json(found.model_dump_json()) == found


def test_times_whose_unit_postfix_leaves_to_us_are_bare_seconds() -> None:
    text = "[smtpgw.queue]\ndelay_warning_time = 0\nminimal_backoff_time = 60\n"
    queue = config.parse(text).smtpgw.queue
    assert (queue.delay_warning_time, queue.minimal_backoff_time) == (0.0, 60.0)
