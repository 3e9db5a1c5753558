"""What a client sent after DATA or by BDAT: header fields, separator, body.

Every line ends in CRLF here, transparency dots are gone, and there is no NUL
and no bare CR or LF.  A body too large for memory is in an unlinked file.
"""

from __future__ import annotations

from milterd.core.mail import Body, FileBody, HeaderField
from milterd.core.values import value


@value
class Content:
    """A received message.  Valid until :meth:`close`, which its receiver calls.

    `size` is octets of header, separator and body.  `notes` says what was
    changed on the way in, in words for the log: "bare LF normalised".
    """

    headers: tuple[HeaderField, ...]
    separator: bytes
    body: Body
    size: int
    notes: tuple[str, ...] = ()

    def close(self) -> None:
        """Give up the spool file, if there is one.  May be called twice."""
        if isinstance(self.body, FileBody):
            self.body.file.close()
