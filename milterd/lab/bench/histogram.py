"""How often which duration occurred, in a fixed amount of memory.

Counts stand in boxes that grow with the value: exact below 256 ns, and from there
128 boxes for each doubling, so that whatever is read from a box is at most 1/128
(0.8 %) above the duration that went in.  The smallest, the largest and the sum are
exact.  Durations are whole nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterator

_BITS = 7
_BOXES = 1 << _BITS
_LARGEST = (1 << 42) - 1
"""73 minutes; what is longer is counted as that."""


def _index(value: int) -> int:
    shift = value.bit_length() - _BITS - 1
    return value if shift <= 0 else (shift << _BITS) + (value >> shift)


def _upper(index: int) -> int:
    """The largest value that belongs into a box."""
    if index < 2 * _BOXES:
        return index
    shift = (index >> _BITS) - 1
    return ((index - (shift << _BITS) + 1) << shift) - 1


class Histogram:
    """Durations counted; `merge` adds another's counts to this one."""

    __slots__ = ("_counts", "_smallest", "count", "largest", "total")

    def __init__(self) -> None:
        self._counts = [0] * (_index(_LARGEST) + 1)
        self._smallest = _LARGEST
        self.count = self.total = self.largest = 0

    @property
    def smallest(self) -> int:
        """The shortest duration; 0 if there is none."""
        return self._smallest if self.count else 0

    def record(self, value: int) -> None:
        """Count one duration, in nanoseconds; less than none is none."""
        # Runs for every answer of the milter: `_index` written out, and no calls.
        if value < 0:
            value = 0
        elif value > _LARGEST:
            value = _LARGEST
        shift = value.bit_length() - 8
        self._counts[value if shift <= 0 else (shift << 7) + (value >> shift)] += 1
        self.count += 1
        self.total += value
        if value > self.largest:
            self.largest = value
        if value < self._smallest:
            self._smallest = value

    def merge(self, other: Histogram) -> None:
        """Add what another counted."""
        self._counts = [
            ours + theirs for ours, theirs in zip(self._counts, other._counts, strict=True)
        ]
        self.count += other.count
        self.total += other.total
        self.largest = max(self.largest, other.largest)
        self._smallest = min(self._smallest, other._smallest)

    def quantile(self, share: float) -> int:
        """The duration that `share` (0 to 1) of all did not exceed; 0 if there is none."""
        rank = max(1, -int(-share * self.count // 1))
        seen = 0
        for index, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return max(self.smallest, min(_upper(index), self.largest))
        return self.largest

    def octaves(self, parts: int = 2) -> Iterator[tuple[int, int]]:
        """The counts in wider boxes, `parts` (1, 2, 4...) for each doubling: upper end, count.

        From the first box with a count to the last.
        """
        width = _BOXES // parts
        wide: dict[int, int] = {}
        for index, count in enumerate(self._counts):
            if count:
                wide[index // width] = wide.get(index // width, 0) + count
        for each in range(min(wide, default=0), max(wide, default=-1) + 1):
            yield _upper(each * width + width - 1), wide.get(each, 0)
