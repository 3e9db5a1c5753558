"""What else there is in a mail of which some findings are known.

A scanner ends at the first thing that it finds.  Once a postmaster has released a mail in spite of
that, each part is scanned by itself (:mod:`milterd.mime.decodings`), until one has something else.
clamd tells one finding of a file: where a single file holds two, the first hides the second.
"""

from __future__ import annotations

from collections.abc import Callable

from milterd.core.mail import BytesBody, Mail, body_octets
from milterd.mime.decodings import Allowance, TooMuch, decodings
from milterd.ports.scanner import Clean, ScanFact, Scanner, TooLarge, Unavailable, Unscannable
from milterd.ports.thorough import ReadingOptions

Known = Callable[[ScanFact], bool]
"""Whether this is clean, or a finding that is passed over."""


class Beyond:
    """See the module's contract.  `options` bound what is scanned by itself."""

    def __init__(
        self, scanner: Scanner, options: ReadingOptions, clock: Callable[[], float]
    ) -> None:
        self._scanner, self._options, self._clock = scanner, options, clock

    def scan(self, mail: Mail, found: ScanFact, known: Known) -> ScanFact:
        """The first finding that is not known, or Clean.  `found` is what was known already; of a
        scanner that does not answer, nothing is asked."""
        if isinstance(found, Unavailable):
            return Clean()
        end = self._clock() + self._options.timeout
        allowance = Allowance(self._options.number, self._options.octets)
        try:
            for each in decodings(body_octets(mail.body), allowance):
                if self._clock() >= end:
                    return Unavailable("timeout", "more parts than there was time for")
                fact = self._scanner.scan(Mail(body=BytesBody(each), separator=b""))
                if not known(fact) and not _of_the_whole(found, fact):
                    return fact
        except TooMuch as error:
            over = Unscannable("limit", str(error))
            return Clean() if known(over) else over
        return Clean()


def _of_the_whole(found: ScanFact, fact: ScanFact) -> bool:
    """Whether a part is only too large because the mail is, which is known."""
    return isinstance(found, TooLarge) and isinstance(fact, TooLarge)
