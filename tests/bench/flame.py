"""Folded stacks of py-spy(1) as a flame graph: a picture without a program in it.

    python -m tests.bench.flame worker.raw > docs/flame.svg

Frames narrower than a third of a percent are left out; a frame's name and share show when the
pointer rests on it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from tests.bench.stages import STAGES, stage_of

WIDTH, ROW, NARROWEST = 1200, 17, 4.0
COLOURS = ("#e6a176", "#d9c56b", "#a8c66c", "#77c2a0", "#6fb7d6", "#8ea6e0", "#b295dc", "#d691c4",
           "#e08e9d", "#c2b8a3", "#c49c94")  # fmt: skip


@dataclass
class Frame:
    """A function where it was called from; `samples` are those of what it calls too."""

    name: str
    samples: int = 0
    calls: dict[str, Frame] = field(default_factory=dict)


def tree(text: str, first: str = "Runner.run") -> Frame:
    """All stacks, from the frame that begins with `first` on."""
    root = Frame("all")
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        names = [each.rpartition(":")[0] for each in stack.split(";")]
        at = next((n for n, name in enumerate(names) if name.startswith(first)), 0)
        frame = root
        frame.samples += int(count)
        for name in names[at:]:
            frame = frame.calls.setdefault(name, Frame(name))
            frame.samples += int(count)
    return root


def boxes(frame: Frame, left: float, depth: int, total: int) -> Iterator[tuple[str, int]]:
    """The picture's elements, and how deep each is."""
    width = WIDTH * frame.samples / total
    if width < NARROWEST:
        return
    name = frame.name.partition(" (")[0]
    stage = stage_of(frame.name)
    colour = COLOURS[list(STAGES).index(stage)] if stage else "#dddddd"
    shown = escape(name[: int(width / 6.6)])
    yield (
        f"<g><title>{escape(name)}: {frame.samples / total:.1%}, {stage or 'others'}</title>"
        f'<rect x="{left:.1f}" y="{depth * ROW}" width="{width:.1f}" height="{ROW - 1}"'
        f' fill="{colour}"/><text x="{left + 2:.1f}" y="{depth * ROW + 12}">{shown}</text></g>',
        depth,
    )
    for each in frame.calls.values():
        yield from boxes(each, left, depth + 1, total)
        left += WIDTH * each.samples / total


def picture(text: str) -> str:
    """The SVG."""
    root = tree(text)
    drawn = list(boxes(root, 0.0, 0, root.samples))
    height = ROW * (1 + max(depth for _, depth in drawn))
    style = "text{font:11px monospace}"
    return "\n".join((
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
        f"<style>{style}</style>",
        *(each for each, _ in drawn),
        "</svg>\n",
    ))  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(picture(Path(sys.argv[1]).read_text()))
