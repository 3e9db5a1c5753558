"""How to log in to a MySQL server: settings of the .cf file, and those of an option file.

`option_file` is in the form of my.cnf: its group [client] counts, then `option_group`; what
the .cf file says itself counts more.  Without `option_file` none is read.
"""

from __future__ import annotations

import configparser
import re
import ssl
from collections.abc import Mapping
from typing import Any

from smtpgw.tables.cf import Cf

_TLS = ("tls_cert_file", "tls_key_file", "tls_CAfile", "tls_CApath", "tls_ciphers")
_SSL = ("ssl-cert", "ssl-key", "ssl-ca", "ssl-capath", "ssl-cipher")

_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "r": "\r", "s": " ", "\\": "\\"}


def options_of(cf: Cf) -> Mapping[str, str]:
    """What the option file says, by the names of my.cnf.  Raises TableError."""
    name, group = cf.text("option_file"), cf.text("option_group", "client")
    if not name:
        return {}
    parser = configparser.RawConfigParser(allow_no_value=True, strict=False)
    parser.optionxform = _plain  # type: ignore[assignment, method-assign] # the documented way
    try:
        with open(name, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
            parser.read_file(line for line in file if not line.startswith("!"))
    except (OSError, configparser.Error) as error:
        found = f"{name}: {error}"
        raise cf.error(found, "a file in the form of my.cnf", cf.line("option_file")) from error
    found_options: dict[str, str] = {}
    for each in ("client", group):
        if parser.has_section(each):
            found_options |= {key: _bare(value or "") for key, value in parser.items(each)}
    return found_options


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _bare(value: str) -> str:
    """Without quotes round it and escapes in it."""
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    text = value[1:-1] if quoted else value
    return re.sub(r"\\([btnrs\\])", lambda match: _ESCAPES[match[1]], text)


def tls_of(cf: Cf, options: Mapping[str, str]) -> ssl.SSLContext | None:
    """TLS where anything asks for it: a chain is verified where authorities are given, the
    server's name with tls_verify_cert.  Raises TableError."""
    given = (cf.text(name) or options.get(other) for name, other in zip(_TLS, _SSL, strict=True))
    cert, key, file, path, ciphers = (each or None for each in given)
    verify = cf.flag("tls_verify_cert", default=False) or "ssl-verify-server-cert" in options
    if not (verify or cert or key or file or path or ciphers):
        return None
    try:
        made = ssl.create_default_context(cafile=file, capath=path)
        made.check_hostname = verify
        made.verify_mode = ssl.CERT_REQUIRED if verify or file or path else ssl.CERT_NONE
        if cert:
            made.load_cert_chain(cert, key)
        if ciphers:
            made.set_ciphers(ciphers)
    except OSError as error:
        raise cf.error(f"TLS: {error}", "certificates and keys that can be read") from error
    return made


def login_of(cf: Cf) -> dict[str, Any]:
    """What asyncmy.connect() is told, apart from the server.  Raises TableError."""
    options = options_of(cf)
    charset = cf.text("charset", options.get("default-character-set") or "utf8mb4", empty=False)
    password = cf.text("password") or options.get("password", "")
    told: dict[str, Any] = {
        "user": cf.text("user") or options.get("user") or None,
        "password": password.encode("utf-8", "surrogateescape"),
        "database": cf.text("dbname", empty=False),
        "charset": charset,
        "autocommit": True,  # else every answer were of the day of the first
        "use_unicode": False,
        "conv": {int: _digits},  # and no decoders: values stay what the server wrote
        "ssl": tls_of(cf, options),
    }
    return {name: value for name, value in told.items() if value is not None}


def _digits(value: int, _: object) -> str:
    return str(value)
