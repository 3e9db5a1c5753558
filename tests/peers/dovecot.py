"""A private Dovecot with LMTP and logins: passwd-file users, Maildirs, a quota for each user."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.peers.process import Peer, answers, daemon, directory, free_port, program, wait_for

_CONFIG = """
base_dir = {home}/run
state_dir = {home}/state
log_path = {home}/dovecot.log
info_log_path = {home}/dovecot.log
debug_log_path = {home}/dovecot.log
protocols = lmtp
ssl = no
default_internal_user = {internal}
default_internal_group = {internal_group}
default_login_user = {login}
first_valid_uid = 1
first_valid_gid = 1
mail_location = maildir:~/Maildir
mail_plugins = quota
auth_username_format = %Lu
lmtp_rcpt_check_quota = {check_at_rcpt}
lmtp_save_to_detail_mailbox = no
recipient_delimiter = +
quota_full_tempfail = yes
passdb {{
  driver = passwd-file
  args = {home}/users
}}
userdb {{
  driver = passwd-file
  args = {home}/users
}}
plugin {{
  quota = maildir:User quota
  quota_grace = 0
}}
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
auth_username_chars =
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service auth {{
  unix_listener {home}/auth.sock {{
    mode = 0666
  }}
  inet_listener {{
    address = 127.0.0.1
    port = {auth_port}
  }}
}}
service stats {{
  chroot =
}}
service lmtp {{
  unix_listener {home}/lmtp.sock {{
    mode = 0666
  }}
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {port}
  }}
}}
{extra}
"""


@dataclass(frozen=True)
class Dovecot:
    """A Dovecot that takes LMTP on `socket` and on 127.0.0.1:`port`, and tells whether logins
    are good on `auth` and on 127.0.0.1:`auth_port`."""

    socket: Path
    port: int
    home: Path
    peer: Peer
    auth_port: int

    @property
    def auth(self) -> Path:
        """The UNIX socket for logins."""
        return self.home / "auth.sock"

    def auth_process(self) -> int:
        """The process that judges logins, once it runs."""
        parent = f"PPid:\t{self.peer.pid}\n"
        found: list[int] = []

        def there() -> bool:
            for each in Path("/proc").glob("[0-9]*"):
                try:
                    name, status = (each / "comm").read_text(), (each / "status").read_text()
                except OSError:
                    continue  # it has ended
                if name == "auth\n" and parent in status:
                    found.append(int(each.name))
            return bool(found)

        wait_for(there, "Dovecot's auth process")
        return found[0]

    def maildir(self, user: str) -> Path:
        """Where a user's mail is."""
        return self.home / "mail" / user / "Maildir"

    def mails(self, user: str) -> list[bytes]:
        """Every mail a user has, with CRLF or LF line ends as Dovecot kept it."""
        new = self.maildir(user) / "new"
        return [each.read_bytes() for each in sorted(new.iterdir())] if new.is_dir() else []

    def add_user(self, user: str, quota: str = "", password: str = "{PLAIN}secret") -> None:
        """Add a user, or change one's quota ("10k", "1 message" as "*:messages=1"; "" none).
        The password as in a passwd-file, with its scheme."""
        users = self.home / "users"
        kept = users.read_text().splitlines() if users.exists() else []
        kept = [line for line in kept if not line.startswith(f"{user}:")]
        users.write_text("\n".join([*kept, self._line(user, quota, password)]) + "\n")

    def _line(self, user: str, quota: str, password: str) -> str:
        home = self.home / "mail" / user
        home.mkdir(parents=True, exist_ok=True)
        owner = pwd.getpwnam(_who("nobody"))  # Dovecot takes no user with the id of root
        if os.geteuid() == 0:
            os.chown(home, owner.pw_uid, owner.pw_gid)
        rule = f"userdb_quota_rule={quota if ':' in quota else f'*:storage={quota}'}"
        extra = rule if quota else ""
        return f"{user}:{password}:{owner.pw_uid}:{owner.pw_gid}::{home}::{extra}"


def _who(name: str) -> str:
    """A user of Dovecot's own, or, where we are not root, ourselves."""
    return name if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


@contextmanager
def dovecot(
    users: Mapping[str, str] | None = None,
    *,
    check_quota_at_rcpt: bool = True,
    mechanisms: str = "plain login cram-md5 digest-md5 scram-sha-1 scram-sha-256",
    extra: str = "",
) -> Iterator[Dovecot]:
    """Run Dovecot with `users`, addresses with their quota ("" for none).

    `mechanisms` are for logins.  Over quota is 452 at RCPT, or after the data if
    `check_quota_at_rcpt` is False.  `extra` is configuration (doveconf(1)) on top.
    """
    start = program("dovecot", "dovecot-lmtpd")
    with directory("dovecot") as home:
        port, auth_port, socket = free_port(), free_port(), home / "lmtp.sock"
        group = _who("dovecot")
        config = home / "dovecot.conf"
        config.write_text(
            _CONFIG.format(
                home=home, port=port, internal=_who("dovecot"), internal_group=group,
                login=_who("dovenull"), extra=extra, mechanisms=mechanisms, auth_port=auth_port,
                check_at_rcpt="yes" if check_quota_at_rcpt else "no",
            )
        )  # fmt: skip
        starting = Dovecot(socket, port, home, Peer("dovecot", home / "dovecot.log"), auth_port)
        for user, quota in (users or {"u@example.net": ""}).items():
            starting.add_user(user, quota)
        ready = lambda: answers(socket, b"220 ") and answers(port, b"220 ")  # noqa: E731 - once
        command = [start, "-F", "-c", str(config)]
        # Killed, with all of its session: after SIGTERM its log process stays for a second, and
        # one of its others for five more if it has just begun.
        with daemon("dovecot", command, home, ready, end=signal.SIGKILL) as peer:
            yield Dovecot(socket, port, home, peer, auth_port)
