"""What a bench found: medians over its rounds, with their spread, as text and as values."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from milterd.lab.bench.histogram import Histogram
from milterd.lab.bench.run import Plan, Round

QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
WHOLE = "whole mail"
_BAR = 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"

Values = dict[str, object]


@dataclass(frozen=True, slots=True)
class Spread:
    """A number that each round had: the median, the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        return cls(statistics.median(numbers), min(numbers), max(numbers))

    def values(self) -> Values:
        """For a program."""
        return {
            "median": round(self.median, 4),
            "least": round(self.least, 4),
            "most": round(self.most, 4),
        }


class Summary:
    """All rounds against one milter with one plan."""

    def __init__(self, socket: str, rounds: Sequence[Round]) -> None:
        self.socket, self.rounds = socket, rounds
        self.mails = sum(each.mails for each in rounds)
        self.verdicts: Counter[tuple[str, str]] = sum(
            (each.verdicts for each in rounds), Counter[tuple[str, str]]()
        )
        self.violations: Counter[str] = sum(
            (Counter(each.violations) for each in rounds), Counter[str]()
        )
        self.per_second = self.over_rounds(lambda each: each.mails / each.seconds)
        self.octets_per_second = self.over_rounds(lambda each: each.octets / each.seconds)
        self.client_cpu = self.over_rounds(lambda each: each.cpu / max(each.mails, 1) * 1000)
        """Milliseconds of the client's own processor time for each mail."""

    def over_rounds(self, value: Callable[[Round], float]) -> Spread:
        return Spread.of([value(each) for each in self.rounds])

    def stages(self) -> Iterator[tuple[str, list[Histogram]]]:
        """Every stage that was answered, with each round's histogram; the whole mail last."""
        for stage in self.rounds[0].stages:
            found = [each.stages[stage] for each in self.rounds if each.stages[stage].count]
            if found:
                yield stage, found
        if self.mails and (found := [each.whole for each in self.rounds if each.whole.count]):
            yield WHOLE, found

    def merged(self, stage: str) -> Histogram:
        """All rounds of a stage together."""
        merged = Histogram()
        for name, found in self.stages():
            if name == stage:
                for each in found:
                    merged.merge(each)
        return merged


def quantile(found: Sequence[Histogram], share: float) -> Spread:
    """A quantile of each round, in milliseconds."""
    return Spread.of([each.quantile(share) / 1e6 for each in found])


def ratio(first: Summary, second: Summary) -> Iterator[tuple[str, Spread]]:
    """The second milter's numbers by the first's, round by round."""

    def of(value: Callable[[Round], float]) -> Spread:
        pairs = zip(first.rounds, second.rounds, strict=True)
        return Spread.of([value(b) / value(a) if value(a) else 0.0 for a, b in pairs])

    def whole(share: float) -> Callable[[Round], float]:
        return lambda each: each.whole.quantile(share)

    yield "mails a second", of(lambda each: each.mails / each.seconds)
    for name, share in QUANTILES[:3]:
        yield f"{WHOLE}, {name}", of(whole(share))


# --- for a reader -------------------------------------------------------------------------


def as_lines(plan: Plan, summary: Summary) -> Iterator[str]:
    """One milter's numbers, with a histogram of whole mails."""
    rounds = len(summary.rounds)
    yield summary.socket
    yield (
        f"  {plan.size} octets, {plan.headers} headers, {plan.connections} connections, "
        f"{plan.keep} mails each; {summary.mails} mails in {rounds} rounds"
    )
    yield f"  mails a second     {_spread(summary.per_second, '.0f')}"
    megabytes = Spread.of([each / 1e6 for each in _parts(summary.octets_per_second)])
    yield f"  megabytes a second {_spread(megabytes, '.2f')}"
    yield f"  client CPU per mail {summary.client_cpu.least:.3f} ms at best, {_cpu(summary)}"
    yield "  verdicts: " + ", ".join(_verdicts(summary))
    for violation, count in sorted(summary.violations.items()):
        yield f"  protocol violation: {violation}, {count} times"
    yield ""
    yield from _table(summary)
    yield ""
    yield from _bars(summary.merged(WHOLE))


def _parts(spread: Spread) -> tuple[float, float, float]:
    return spread.median, spread.least, spread.most


def _spread(spread: Spread, form: str) -> str:
    return f"{spread.median:{form}} ({spread.least:{form}} to {spread.most:{form}})"


def _cpu(summary: Summary) -> str:
    return f"{summary.client_cpu.median:.3f} ms the median round"


def _verdicts(summary: Summary) -> Iterator[str]:
    for (stage, reply), count in sorted(summary.verdicts.items()):
        yield f"{reply} at {stage} {count}"


def _table(summary: Summary) -> Iterator[str]:
    names = "".join(f"{name:>10}" for name, _ in QUANTILES)
    yield f"  {'milliseconds':<16}{'count':>9}{names}"
    for stage, found in summary.stages():
        count = sum(each.count for each in found)
        cells = "".join(f"{quantile(found, share).median:>10.3f}" for _, share in QUANTILES[:3])
        most = max(each.largest for each in found) / 1e6
        yield f"  {stage:<16}{count:>9}{cells}{most:>10.3f}"


def _bars(histogram: Histogram) -> Iterator[str]:
    """Whole mails by the time they took, two boxes for each doubling."""
    boxes = list(histogram.octaves(2))
    most = max((count for _, count in boxes), default=0)
    for upper, count in boxes:
        eighths = -(-count * _BAR * 8 // most) if most else 0
        bar = _EIGHTHS[8] * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        yield f"  up to {_duration(upper):>9} {count:>9} {bar}".rstrip()


def _duration(nanoseconds: int) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.2f} {unit}"
    return f"{nanoseconds / 1e3:.1f} us"


def ratio_lines(first: Summary, second: Summary) -> Iterator[str]:
    """How two milters compare."""
    yield f"{second.socket} by {first.socket}: median of {len(first.rounds)} pairs (spread)"
    for name, spread in ratio(first, second):
        yield f"  {name:<18} {_spread(spread, '.2f')}"


# --- for a program ------------------------------------------------------------------------


def as_values(plan: Plan, summaries: Sequence[Summary]) -> Values:
    """One size's numbers; durations in milliseconds."""
    found: Values = {
        "size": plan.size,
        "headers": plan.headers,
        "connections": plan.connections,
        "keep": plan.keep,
        "every_answer": plan.every_answer,
        "milters": [_milter(each) for each in summaries],
    }
    if len(summaries) == 2:
        found["ratio"] = {name: spread.values() for name, spread in ratio(*summaries)}
    return found


def _milter(summary: Summary) -> Values:
    return {
        "socket": summary.socket,
        "rounds": len(summary.rounds),
        "mails": summary.mails,
        "verdicts": [
            {"stage": stage, "reply": reply, "mails": count}
            for (stage, reply), count in sorted(summary.verdicts.items())
        ],
        "violations": dict(summary.violations),
        "mails_per_second": summary.per_second.values(),
        "octets_per_second": summary.octets_per_second.values(),
        "client_cpu_ms": summary.client_cpu.values(),
        "stages": {stage: _stage(found) for stage, found in summary.stages()},
        "histogram": [[upper / 1e6, n] for upper, n in summary.merged(WHOLE).octaves(4)],
    }


def _stage(found: Sequence[Histogram]) -> Values:
    values: Values = {"count": sum(each.count for each in found)}
    for name, share in QUANTILES:
        values[name] = quantile(found, share).values()
    return values
