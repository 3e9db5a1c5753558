"""unix:passwd.byname, unix:group.byname - the users and groups of the system.

The key is a name, folded; the answer is the line of passwd(5) or group(5).
"""

from __future__ import annotations

import grp
import os
import pwd

from smtpgw.tables.context import Context
from smtpgw.tables.table import Found, Local, TableError, Unavailable


def _passwd(name: str) -> str:
    user = pwd.getpwnam(name)
    words = user.pw_name, user.pw_passwd, user.pw_uid, user.pw_gid, user.pw_gecos
    return ":".join(str(each) for each in (*words, user.pw_dir, user.pw_shell))


def _group(name: str) -> str:
    group = grp.getgrnam(name)
    words = group.gr_name, group.gr_passwd, group.gr_gid, ",".join(group.gr_mem)
    return ":".join(str(each) for each in words)


TABLES = {"passwd.byname": _passwd, "group.byname": _group}


class Unix(Local):
    """Users, or groups."""

    def __init__(self, which: str, context: Context) -> None:
        super().__init__(context.spec(which))
        self._ask, self._folding = TABLES[which], context.folding

    def find_now(self, key: bytes) -> Found | None:
        """Raises Unavailable if the system cannot tell."""
        folded = self._folding.fixed(key)
        if folded is None or b"\0" in folded:
            return None
        try:
            return Found(os.fsencode(self._ask(os.fsdecode(folded))), self.name)
        except KeyError:
            return None
        except OSError as error:
            raise Unavailable(self.name, error.strerror or str(error)) from error


def open(name: str, context: Context) -> Unix:
    """Raises TableError."""
    if name not in TABLES:
        raise TableError(context.spec(name), found=repr(name), expected=" or ".join(TABLES))
    return Unix(name, context)
