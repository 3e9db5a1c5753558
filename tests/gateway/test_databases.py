"""A gateway whose recipients and aliases are in databases, and what becomes of its answers when
they are killed under load."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import smtplib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.gateway.gateway import PATIENCE, Gateway, until
from tests.peers.mariadb import MariaDb, mariadb
from tests.tables.conftest import (  # noqa: F401 - fixtures
    authority,
    ldap,
    pgsql,
    postgresql_server,
    slapd_server,
    table_directory,
)
from tests.tables.databases import Database

pytestmark = [pytest.mark.xdist_group("databases"), pytest.mark.timeout(300)]

CLIENTS = 6
CONNECTIONS = 3
"""For each of the two tables."""
USER, DATABASE = "gatepost", "mail"
BOXES = [f"box{number}@vm.example" for number in range(20)]
ALIASES = {f"alias{number}@vm.example": BOXES[number] for number in range(20)}
UNKNOWN = [f"nobody{number}@vm.example" for number in range(20)]
ROWS = (
    f"CREATE DATABASE {DATABASE}; USE {DATABASE};"
    "CREATE TABLE box (address VARCHAR(200) PRIMARY KEY);"
    "CREATE TABLE alias (address VARCHAR(200) PRIMARY KEY, goto VARCHAR(200));"
    + "".join(f"INSERT INTO box VALUES ('{each}');" for each in BOXES)
    + "".join(f"INSERT INTO alias VALUES ('{one}', '{two}');" for one, two in ALIASES.items())
    + f"CREATE USER {USER}@localhost IDENTIFIED BY 'secret';"
    f"GRANT SELECT ON {DATABASE}.* TO {USER}@localhost;"
)


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDb]:
    """MariaDB with boxes and aliases."""
    with mariadb() as one:
        one.sql(ROWS)
        yield one


def configure(gateway: Gateway, server: MariaDb) -> None:
    """Every answer comes from the database: none is kept."""
    for name, column in (("box", "1"), ("alias", "goto")):
        (gateway.place / f"{name}.cf").write_text(
            f"hosts = unix:{server.socket}\nuser = {USER}\npassword = secret\n"
            f"dbname = {DATABASE}\nretry_interval = 1\n"
            f"query = SELECT {column} FROM {name} WHERE address = '%s'\n"
        )
    limits = (f"smtpd_{each}_limit = 1000000\n" for each in ("hard_error", "soft_error"))
    gateway.configure(
        'virtual_mailbox_domains = "vm.example"\nvirtual_alias_domains = ""\n'
        'mynetworks = "192.0.2.0/24"\nsmtpd_junk_command_limit = 1000000\n'
        f'virtual_mailbox_maps = "mysql:{gateway.place}/box.cf"\n'
        f'virtual_alias_maps = "mysql:{gateway.place}/alias.cf"\n' + "".join(limits),
        f"[smtpgw.tables]\ncache_size = 0\nconnections = {CONNECTIONS}\n",
    )


@dataclass
class Load:
    """Clients that ask and send without end, and what they were told."""

    port: int
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, int, bytes]] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self, seed: int) -> None:
        dice = random.Random(seed)
        with smtplib.SMTP("127.0.0.1", self.port, timeout=PATIENCE) as client:
            client.ehlo("client.example")
            while not self.stopping.is_set():
                client.rset()
                client.mail("s@foreign.example")
                address = dice.choice(dice.choice((BOXES, list(ALIASES), UNKNOWN)))
                code, text = client.rcpt(address)
                self.told(address, code, text)
                if code == 250 and dice.random() < 0.2:
                    self.send(client, address)

    def told(self, address: str, code: int, text: bytes) -> None:
        right = 550 if address in UNKNOWN else 250
        temporary = f"4.3.0 <{address}>: Temporary lookup failure".encode()
        if code == right:
            self.seen["right"] += 1
        elif (code, text) == (451, temporary):
            self.seen["temporary"] += 1
        else:
            self.wrong.append((address, code, text))

    def send(self, client: smtplib.SMTP, address: str) -> None:
        code, text = client.data(b"Subject: x\r\n\r\nx\r\n")
        if code == 250:
            self.sent[ALIASES.get(address, address)] += 1
        elif code != 451:
            self.wrong.append((address, code, text))

    def more(self, what: str, count: int = 100) -> None:
        """Until there is more of it."""
        before = self.seen[what]
        until(lambda: self.seen[what] >= before + count, what=f"more that is {what}")


def descriptors(pid: int) -> int:
    """How many a process has, but for those of its decisions, which come with the first one."""
    found = 0
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # just closed
            found += "/decisions/" not in str(each.readlink())
    return found


def test_a_database_that_is_killed_under_load_makes_no_answer_wrong(
    gateway: Gateway, server: MariaDb
) -> None:
    """250 for who is known, 550 for who is not, 451 meanwhile; what was accepted is delivered to
    whom the aliases say; nothing is left of the connections."""
    configure(gateway, server)
    gateway.start()
    (worker,) = gateway.workers()
    load = Load(gateway.port)
    with gateway.client() as client:
        client.mail("s@foreign.example")
        client.rcpt(BOXES[0])
    before = descriptors(worker)
    threads = [threading.Thread(target=load.run, args=(seed,)) for seed in range(CLIENTS)]
    for each in threads:
        each.start()
    try:
        for _ in range(2):
            load.more("right")
            assert server.connections(USER) <= 2 * CONNECTIONS
            server.kill()
            load.more("temporary")
            server.start()
            load.more("right")
    finally:
        load.stopping.set()
        for each in threads:
            each.join(PATIENCE)
    assert not load.wrong
    assert load.sent
    for address, count in load.sent.items():
        assert len(gateway.delivered(address, count)) == count
    delivered = sum(1 for _ in gateway.mail.glob("*/new/*"))
    assert delivered == load.sent.total()
    assert 0 < server.connections(USER) <= 2 * CONNECTIONS
    idle = before + 2 * CONNECTIONS
    until(lambda: descriptors(worker) <= idle, what=f"at most {idle} descriptors")
    assert gateway.stop() == 0
    until(lambda: server.connections(USER) == 0, what="no connection to the database")


def test_why_the_database_did_not_answer_stands_in_the_log_only(
    gateway: Gateway, server: MariaDb
) -> None:
    configure(gateway, server)
    file = gateway.place / "box.cf"
    file.write_text(re.sub("password = .*", "password = wrong", file.read_text()))
    gateway.start()
    with gateway.client() as client:
        client.mail("s@foreign.example")
        code, text = client.rcpt(BOXES[0])
    assert (code, text) == (451, f"4.3.0 <{BOXES[0]}>: Temporary lookup failure".encode())
    (line,) = until(lambda: gateway.events("command"))
    assert f"mysql:{file}" in line["decided"][0]
    assert "Access denied" in line["decided"][0]


def test_reloads_leave_no_connection_behind(gateway: Gateway, server: MariaDb) -> None:
    configure(gateway, server)
    gateway.start()
    assert gateway.process is not None
    text = gateway.file.read_text()
    for number in range(5):
        with gateway.client() as client:
            client.mail("s@foreign.example")
            assert client.rcpt(BOXES[0])[0] == 250
        ready = gateway.count("ready")
        gateway.file.write_text(
            text.replace("[smtpgw]\n", f"[smtpgw]\nhopcount_limit = {number + 9}\n")
        )
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: gateway.count("ready") > ready, what="the reload")  # noqa: B023 - called now
    until(lambda: server.connections(USER) == 0, what="the connections of before to be closed")


def test_recipients_stand_in_postgresql_and_ldap(
    gateway: Gateway,
    pgsql: Database,  # noqa: F811 - the fixture
    ldap: Database,  # noqa: F811 - the fixture
) -> None:
    """The same people as in tests.tables; aliases are asked of one, mailboxes of the other."""
    query = "query = SELECT goto FROM alias WHERE address = '%s' AND number < 10\n"
    people = ldap.cf("query_filter = mail=%s\n", "gateway-ldap.cf")
    aliases = pgsql.cf(query, "gateway-pgsql.cf")
    gateway.configure(
        'virtual_mailbox_domains = "example.net"\nvirtual_alias_domains = ""\n'
        f'virtual_mailbox_maps = "{people}"\nvirtual_alias_maps = "{aliases}"\n'
    )
    text = gateway.file.read_text().replace('mydestination = ["example.net"]', "mydestination = []")
    gateway.file.write_text(text)
    gateway.start()
    with gateway.client() as client:
        client.mail("s@foreign.example")
        codes = {
            each: client.rcpt(f"{each}@example.net")[0] for each in ("user", "group", "nobody")
        }
        assert codes == {"user": 250, "group": 250, "nobody": 550}
    assert gateway.send(recipients=("user@example.net",))[0] == 250
    assert gateway.delivered("box@example.org")
