"""ldap: tables beside Debian's postmap with the same .cf files, and on a real slapd."""

from __future__ import annotations

import asyncio
import importlib.util
import random
from pathlib import Path

import pytest

from smtpgw.tables.catalogue import open_table
from smtpgw.tables.context import Context
from smtpgw.tables.table import TableError, Unavailable
from tests.peers.slapd import BASE, MANAGER, PASSWORD, Slapd
from tests.queue.support import run, until
from tests.tables.databases import TABLES, Database, Failures, Postmap, compare, ours, stopped

pytestmark = pytest.mark.xdist_group("databases")

KEYS = (
    b"user@example.net", b"USER@Example.net", b"many@example.net", b"more@example.net",
    b"o'brien@example.net", b"*(\\)@example.net", b"5@example.net", b"5", b"user", b"many",
    b"group@example.net", b"circle@example.net", b"missing@example.net", b"@example.net", b"*",
    b"(", b")", b"\\", b"\\2a", b"*@example.net", b"user@", b"a,b@example.net", b"a=b", b'"#+;<>',
    b" user@example.net", b"user@example.net ", b"m\xc3\xbcller@example.net", b"\xff@example.net",
    b"x" * 5000, b"user)(mail=*", b"user@sub.example.net",
)  # fmt: skip
FILTERS = (
    "mail=%s", "(mail=%s)", "(&(mail=%s)(objectClass=inetOrgPerson))", "(&(mail=%s) (cn=%u))",
    "(|(mail=%s)(cn=%s))", "(mail=%u@%d)", "cn=%u", "(mail=%u@*)", "(mail=*@%d)",
    "(&(mail=%s)(!(cn=many)))", "(mail=%u@%2.%1)", "(cn=user)", "(mail=%s", "(noSuch=%s)",
)  # fmt: skip
BASES = (BASE, BASE, f"ou=people, {BASE}", f"cn=%u,ou=people,{BASE}", f"ou=%u,{BASE}", "dc=nowhere")
ATTRIBUTES = (
    "result_attribute = maildrop",
    "result_attribute = mail, maildrop",
    "result_attribute = cn mail\nspecial_result_attribute = memberdn",
    "result_attribute =\nleaf_result_attribute = maildrop\nspecial_result_attribute = memberdn",
    "result_attribute = mail\nterminal_result_attribute = maildrop",
    "special_result_attribute = memberdn\nrecursion_limit = 3",
    "result_attribute = noSuchAttribute",
    "",
)
MORE = (
    ("scope = sub", "scope = one", "scope = base", ""),
    ("result_format = smtp:[%s]", "result_format = %u+%D", "result_filter = %d", "", ""),
    ("expansion_limit = 1", "expansion_limit = 3", "size_limit = 1", "", ""),
    ("domain = example.net", "", ""),
    ("bind = no", "bind = yes", f"bind_dn = {MANAGER}\nbind_pw = {PASSWORD}", ""),
    ("dereference = 3", "timeout = 5", ""),
)


def settings(chosen: random.Random) -> str:
    lines = [
        f"search_base = {chosen.choice(BASES)}",
        f"query_filter = {chosen.choice(FILTERS)}",
        chosen.choice(ATTRIBUTES),
        *(chosen.choice(each) for each in MORE),
    ]
    return "\n".join(filter(None, lines)) + "\n"


@pytest.mark.timeout(120 + 2 * TABLES)
def test_generated_tables_answer_as_postfix(ldap: Database, postmap: Postmap) -> None:
    failures = Failures(postmap)
    for number in range(TABLES):
        text = settings(random.Random(number))
        if "terminal_result_attribute" in text and "(mail=*@%d)" in text:
            # Several entries: Postfix takes those behind a terminal one for terminal ones too.
            # ldap_table(5) says it of the entry that has the attribute (docs/tables-databases.md).
            continue
        spec = ldap.cf(text, f"ldap-{number}.cf")
        run(compare(spec, KEYS, postmap, failures), 60)
    failures.check()


def test_groups_are_followed(ldap: Database, postmap: Postmap) -> None:
    for number, (more, answer) in enumerate(
        [
            (
                "special_result_attribute = memberdn",
                b"owner@example.org,box@example.org,a@example.org,@nobody.example,unqualified",
            ),
            (
                "leaf_result_attribute = maildrop\nresult_attribute =\n"
                "special_result_attribute = memberdn",
                b"box@example.org,a@example.org,@nobody.example,unqualified",
            ),
            (
                "terminal_result_attribute = maildrop\nresult_attribute = mail\n"
                "special_result_attribute = memberdn",
                b"owner@example.org",
            ),
        ]
    ):
        spec = ldap.cf(f"query_filter = mail=%s\n{more}\n", f"group-{number}.cf")
        key = b"group@example.net"
        assert run(ours(spec, [key])) == ({key: answer}, {})
        assert postmap.find(spec, [key])[0] == {key: answer}


def test_a_circle_ends(ldap: Database) -> None:
    spec = ldap.cf(
        "query_filter = mail=%s\nspecial_result_attribute = memberdn\nrecursion_limit = 50\n"
    )
    _, failed = run(ours(spec, [b"circle@example.net"]))
    assert "recursion_limit" in failed[b"circle@example.net"]


def test_hosts_are_tried_in_their_order(ldap: Database, slapd_server: Slapd) -> None:
    hosts = f"ldap://127.0.0.1:1 ldapi://%2Fnowhere\n  127.0.0.1:{slapd_server.port}"
    spec = ldap.cf(
        "query_filter = mail=%s\n", settings=f"server_host = {hosts}\nsearch_base = {BASE}\n"
    )
    assert run(ours(spec, [b"user@example.net", b"5@example.net"]))[1] == {}


def test_a_wrong_password_is_no_answer(ldap: Database) -> None:
    spec = ldap.cf(f"query_filter = mail=%s\nbind_dn = {MANAGER}\nbind_pw = wrong\n")
    _, failed = run(ours(spec, [b"user@example.net"]))
    assert "invalidCredentials" in failed[b"user@example.net"]


@pytest.mark.parametrize(("name", "trusted"), [("ca", True), ("other", False), ("", True)])
def test_start_tls_speaks_to_whom_it_trusts(
    ldap: Database, slapd_server: Slapd, authority: Path, name: str, trusted: bool
) -> None:
    asked = f"tls_require_cert = yes\ntls_ca_cert_file = {authority}/{name}.pem\n" if name else ""
    spec = ldap.cf(
        f"query_filter = mail=%s\nstart_tls = yes\n{asked}",
        settings=f"server_host = 127.0.0.1:{slapd_server.port}\nsearch_base = {BASE}\n",
    )
    found, failed = run(ours(spec, [b"5@example.net"]))
    assert (len(found), len(failed)) == ((1, 0) if trusted else (0, 1))


def test_a_server_that_hangs_is_no_answer_and_no_thread_stays(
    ldap: Database, slapd_server: Slapd
) -> None:
    spec = ldap.cf("query_filter = mail=%s\ntimeout = 5\n")

    async def ask() -> None:
        table = open_table(spec, Context(query_limit=2))
        assert await table.find(b"user@example.net")
        slapd_server.peer.pause()
        tasks = Path(f"/proc/{slapd_server.peer.pid}/task")
        await until(lambda: all(stopped(each) for each in tasks.iterdir()))
        try:
            asked = (table.find(b"user@example.net") for _ in range(8))
            answers = await asyncio.gather(*asked, return_exceptions=True)
        finally:
            slapd_server.peer.resume()
        assert all(isinstance(each, Unavailable) for each in answers)
        await asyncio.sleep(0)
        await table.close()

    run(ask(), 60)
    assert run(ours(spec, [b"user@example.net"]))[1] == {}


def test_without_the_library_the_table_says_what_is_missing(
    ldap: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ldap3" else found(name)
    )
    with pytest.raises(TableError, match="ldap3 is not installed") as caught:
        open_table(ldap.cf("query_filter = mail=%s\n"), Context())
    assert "gatepost[ldap]" in caught.value.expected


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("bind = sasl", "yes, simple, no or none"),
        ("scope = tree", "sub, one or base"),
        ("dereference = 4", "0 to 3"),
        ("query_filter = mail=%x", "%s and the like"),
        ("server_host = http://x", "ldap://"),
        ("version = 1", "a number from 2 on"),
        ("recursion_limit = 0", "a number from 1 on"),
    ],
)
def test_a_definition_that_cannot_be_used_says_where(
    ldap: Database, more: str, expected: str
) -> None:
    with pytest.raises(TableError, match=expected) as caught:
        open_table(ldap.cf(f"{more}\n"), Context())
    assert caught.value.line
