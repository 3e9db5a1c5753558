"""What a postmaster may set about TLS with clients, ready to be worked with."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smtpgw.tls.versions import Versions

MODERN = Versions(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
"""What RFC 8996 leaves."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where a certificate chain and its key are; without `key`, `chain` is a file of
    smtpd_tls_chain_files, with keys and chains by turns."""

    chain: Path
    key: Path | None = None


class CannotAskError(Exception):
    """This Python does not let clients be asked for certificates."""


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Whether clients are asked for a certificate, and who may vouch for it.

    `depth` is how many certificates may stand between the client's and a CA's; `digest` is what
    makes fingerprints.
    """

    ask: bool = False
    ca_file: Path | None = None
    ca_path: Path | None = None
    depth: int = 9
    digest: str = "sha256"


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """One listener's TLS (postconf(5), the names with smtpd_tls_ before).

    `lifetime` is seconds for which an earlier session may be gone on with, 0 for never; `curve`
    is the only one for ECDHE, where it is given; `flags` are OpenSSL's options.
    """

    files: Sequence[Files] = ()
    versions: Versions = MODERN
    ciphers: str = "DEFAULT:!aNULL"
    server_order: bool = False
    flags: int = 0
    curve: str = ""
    dh_parameters: Path | None = None
    lifetime: float = 3600.0
    clients: ClientOptions = ClientOptions()
