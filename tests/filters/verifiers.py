"""Other people's DKIM verifiers, with public keys from a file instead of DNS."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from milterd.filters.dkim import DkimFilter

SCRIPT = Path(__file__).with_name("mail_dkim.pl")


class Verifiers:
    """Mail::DKIM and OpenDKIM, knowing the keys of a filter; each takes many messages at once.

    Results are, for each message, {selector: "pass" or what else they say}.
    """

    def __init__(self, signer: DkimFilter, directory: Path) -> None:
        self._directory = directory
        records = signer.records().items()
        (directory / "perl.keys").write_text("".join(f"{k}\t{v}\n" for k, v in records))
        (directory / "opendkim.keys").write_text("".join(f"{k} {v}\n" for k, v in records))
        (directory / "opendkim.conf").write_text(
            f"Mode v\nSyslog no\nTestPublicKeys {directory / 'opendkim.keys'}\n"
        )

    def mail_dkim(self, messages: Sequence[bytes]) -> list[dict[str, str]]:
        """What Mail::DKIM says.  The release in Debian 12 does not know Ed25519."""
        command = ["perl", str(SCRIPT), str(self._directory / "perl.keys"), *self._files(messages)]
        found = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        lines = found.removesuffix("\n").split("\n")
        assert len(lines) == len(messages)
        return [
            dict(re.fullmatch(r"([^=]*)=(.*)", each).groups() for each in line.split())  # type: ignore[union-attr]
            for line in lines
        ]

    def opendkim(self, messages: Sequence[bytes]) -> list[dict[str, str]]:
        """What OpenDKIM says, of both algorithms."""
        command = ["opendkim", "-x", str(self._directory / "opendkim.conf"), "-vvv", "-t"]
        files = ",".join(self._files(messages))
        done = subprocess.run([*command, files], capture_output=True, check=True)
        parts = done.stdout.decode("utf-8", "replace").split("### INSHEADER")[1:]
        assert len(parts) == len(messages), done.stdout
        return [{selector: word for word, selector in re.findall(_RESULT, part)} for part in parts]

    def _files(self, messages: Sequence[bytes]) -> list[str]:
        directory = Path(tempfile.mkdtemp(dir=self._directory))
        paths = [directory / f"{number}.eml" for number in range(len(messages))]
        for path, octets in zip(paths, messages, strict=True):
            path.write_bytes(octets)
        return [str(each) for each in paths]


_RESULT = r"dkim=(\w+)[^;]*?header\.s=(\w+)"
