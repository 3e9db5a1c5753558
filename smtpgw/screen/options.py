"""How clients are screened on one listener, under postscreen's names (postconf(5))."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from smtpgw.edge.road import Answer
from smtpgw.screen.passes import DEEP, Test
from smtpgw.screen.sites import Site

Action = Literal["ignore", "enforce", "drop"]
DAY, HOUR = 86_400.0, 3_600.0

PROTOCOL_ERROR = Answer(550, "5.5.1", "Protocol error")
UNAVAILABLE = Answer(450, "4.3.2", "Service currently unavailable")


def _nothing(_word: bytes) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class ScreenOptions:
    """`actions` and `ttl` (seconds) are by test; that of DNSBL is a maximum.  `deep` are the
    tests of the dialogue that are switched on; `deep_defer` says that they are made in a
    dialogue of their own whose every recipient is deferred, as with postscreen.

    `greet_banner` is the line sent before the client's turn; without one it is not tested who
    speaks too early.  `forbidden` knows words that no mail client says.  Times are in seconds.
    `line_limit` is the octets of a command line.  `reply_names` are what clients hear instead
    of the domains of lists.
    """

    myhostname: str = "localhost"
    banner: str = "localhost ESMTP Gatepost"
    denylist_action: Action = "ignore"
    actions: Mapping[Test, Action] = field(default_factory=dict)
    ttl: Mapping[Test, float] = field(default_factory=dict)
    greet_banner: str = ""
    greet_wait: float = 6.0
    dnsbl_sites: tuple[Site, ...] = ()
    dnsbl_threshold: int = 1
    dnsbl_allowlist_threshold: int = 0
    dnsbl_timeout: float = 10.0
    dnsbl_min_ttl: float = 60.0
    reply_names: Mapping[str, str] = field(default_factory=dict)
    deep: frozenset[Test] = frozenset()
    deep_defer: bool = False
    command_count_limit: int = 20
    command_time_limit: float = 300.0
    line_limit: int = 2048
    message_size_limit: int = 26_214_400
    disable_vrfy: bool = False
    helo_required: bool = False
    forbidden: Callable[[bytes], bool] = _nothing
    pre_queue_limit: int = 1000
    client_limit: int = 0
    soft_bounce: bool = False
    starttls: bool = False
    tls_required: bool = False
    etrn: bool = False

    @property
    def enabled(self) -> frozenset[Test]:
        """The tests that are made."""
        early = {Test.PREGREET} if self.greet_banner else set()
        if self.dnsbl_sites:
            early.add(Test.DNSBL)
        return frozenset(early | (self.deep & DEEP))

    @property
    def shortest(self) -> float:
        """The shortest of all times of passes, for what is passed only because it is ignored."""
        return min(self.ttl.values(), default=HOUR)

    def action(self, test: Test) -> Action:
        """What becomes of a client that fails."""
        return self.actions.get(test, "ignore")


def softened(answer: Answer, soft_bounce: bool) -> Answer:
    """The answer as it is given: temporary under soft_bounce."""
    if not soft_bounce or answer.code < 500:
        return answer
    enhanced = "4" + answer.enhanced[1:] if answer.enhanced else ""
    return replace(answer, code=answer.code - 100, enhanced=enhanced)
