"""The tests before the dialogue, as a machine without clock or socket.

A client is met with what the access list says and what it has passed before.  Then it speaks or
is silent, the lists answer or do not, and the time runs out; at the end there is a verdict
(postscreen(8): the order of things and the answers are its own).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from smtpgw.edge.road import Answer
from smtpgw.screen.options import PROTOCOL_ERROR, UNAVAILABLE, ScreenOptions
from smtpgw.screen.passes import DEEP, EARLY, Passes, Test
from smtpgw.screen.score import Score


class Access(enum.Enum):
    """What postscreen_access_list says."""

    PERMIT = "permit"
    REJECT = "reject"
    DUNNO = "dunno"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of the client: `part`, an answer after which the connection ends;
    `refuse`, the answer to every recipient in a dialogue that takes no mail; neither, and it may
    go on.  `deep` are tests of the dialogue that are still to be made; `greet`, whether it still
    has to hear the banner."""

    part: Answer | None = None
    refuse: Answer | None = None
    deep: frozenset[Test] = frozenset()
    greet: bool = True


DENIED = Answer(550, "5.3.2", "Service currently unavailable")
DENIED_AT_ONCE = Answer(521, "5.3.2", "Service currently unavailable", hangup=True)
DROPPED = Answer(521, "5.5.1", "Protocol error", hangup=True)


class Early:
    """One client's.  `now` is seconds since 1970; `veto` says that nobody becomes known at the
    address it has come to (postscreen_allowlist_interfaces)."""

    def __init__(
        self,
        options: ScreenOptions,
        client: str,
        access: Access,
        passes: Passes | None,
        now: float,
        *,
        veto: bool = False,
    ) -> None:
        self._options, self._client = options, client
        self.refuse: Answer | None = None
        self.part: Answer | None = None
        self.failed: set[Test] = set()
        self.passes = passes if passes is not None else Passes()
        self.until: dict[Test, float] = {}
        self.score: Score | None = None
        self._done: set[Test] = set()
        self._talked = False
        self.denied = access is Access.REJECT
        if self.denied and options.denylist_action == "drop":
            self.part = DENIED_AT_ONCE
        elif self.denied and options.denylist_action == "enforce":
            self._enforce(DENIED)
            self.passes = Passes()  # one that is refused in any case has passed nothing
        self.todo = self.passes.todo(options.enabled, now)
        if access is Access.PERMIT:
            self.todo = frozenset()
        elif veto and (self.todo or self.refuse is not None):
            self._enforce(UNAVAILABLE)

    @property
    def waiting(self) -> bool:
        """Whether there is still something to wait for."""
        return self.part is None and not (self.todo & EARLY) <= self._done

    def talked(self) -> None:
        """The client has spoken before its turn."""
        test = Test.PREGREET
        if test not in self.todo or self._talked:
            return
        self._talked = True
        self._done.add(test)
        action = self._options.action(test)
        if action == "ignore":
            return
        self.failed.add(test)
        if action == "drop":
            self.part = DROPPED
        else:
            self._enforce(PROTOCOL_ERROR)

    def scored(self, score: Score, now: float) -> None:
        """All lists have answered."""
        if self.score is not None or Test.DNSBL not in self.todo:
            return
        self.score = score
        self._done.add(Test.DNSBL)
        allow, options = self._options.dnsbl_allowlist_threshold, self._options
        liked = allow < 0 and score.total <= allow and score.total < options.dnsbl_threshold
        if liked and not self.failed and self.refuse is None and not self._talked:
            self._excuse(now)

    def _excuse(self, now: float) -> None:
        """A client that is liked so much passes every other test, also those switched off."""
        good = now + self._dnsbl_ttl()
        for each in Test:
            if each is not Test.DNSBL:
                self._done.add(each)
                self.until[each] = max(good, self.passes.until.get(each, 0))

    def conclude(self, partial: Score, now: float) -> Verdict:
        """The time is over, or there is nothing to wait for: `partial` is what the lists have
        said by now."""
        if self.part is not None:
            return Verdict(part=self.part)
        if Test.PREGREET in self.todo - self._done:
            self.until[Test.PREGREET] = now + self._options.ttl.get(Test.PREGREET, 0.0)
        if Test.DNSBL in self.todo:
            self.scored(partial, now)
            part = self._weigh(now)
            if part is not None:
                return Verdict(part=part)
        excused = {each for each in DEEP if each in self.until}
        greet = Test.PREGREET not in self.failed
        return Verdict(refuse=self.refuse, deep=(self.todo & DEEP) - excused, greet=greet)

    def _weigh(self, now: float) -> Answer | None:
        """What the lists have said decides; an answer means that the client is dropped."""
        score, options = self.score, self._options
        if score is None or score.total < options.dnsbl_threshold:
            self.until[Test.DNSBL] = now + self._dnsbl_ttl()
            return None
        action = options.action(Test.DNSBL)
        if action == "ignore":
            return None
        self.failed.add(Test.DNSBL)
        name = options.reply_names.get(score.domain, score.domain)
        text = f"Service unavailable; client [{self._client}] blocked using {name}"
        if action == "drop":
            self.part = Answer(521, "5.7.1", text, hangup=True)
        else:
            self._enforce(Answer(550, "5.7.1", text))
        return self.part

    def _dnsbl_ttl(self) -> float:
        """How long what the lists say is good: as long as they say, within our bounds."""
        lower = self._options.dnsbl_min_ttl
        upper = max(lower, self._options.ttl.get(Test.DNSBL, lower))
        return min(max(self.score.ttl if self.score is not None else 0.0, lower), upper)

    def _enforce(self, answer: Answer) -> None:
        """Of several reasons to refuse the client hears the last, as with postscreen."""
        self.refuse = answer

    @property
    def clean(self) -> bool:
        """Whether nothing was held against the client: only then is it known by what it has
        passed."""
        return self.refuse is None and self.part is None and not self.failed
