"""docs/lab/conform-checks.md as it should be, made from the checks themselves.

python packaging/checks.py > docs/lab/conform-checks.md
"""

from __future__ import annotations

import sys

from milterd.lab.conform.catalog import CHECKS

_HEAD = """\
# The checks of a milter

Made from the checks themselves by `python packaging/checks.py > docs/lab/conform-checks.md`;
[conform](conform.md) says how to use them.
"""


def page() -> str:
    """The whole page, a table a subject."""
    lines, subject = [_HEAD], ""
    for each in CHECKS:
        if each.subject != subject:
            subject = each.subject
            lines += [
                f"\n## {subject}\n",
                "| check | what is tried | rule | source |",
                "|---|---|---|---|",
            ]
        cells = (f"`{each.name}`", each.title, each.rule, each.source)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
