"""The commands `smtpgw quarantine ...`: they work on the store itself, daemon or not.

What is marked for release, a gateway that runs takes up within a second.  No lock is taken.
"""

from __future__ import annotations

import typer

from smtpgw.quarantine_cli import changing, listing, showing

quarantine = typer.Typer(
    help="Look at what milters have had quarantined, release or delete it.", no_args_is_help=True
)

_EXAMPLES = (
    ("list", listing.list_, "list --filter clamav --older-than 7d"),
    ("show", showing.show, "show 0PmbkXzQ1a00xyz --message"),
    ("release", changing.release, "release 0PmbkXzQ1a00xyz"),
    ("delete", changing.delete, "delete --rule 'Win.*' --yes"),
)
for _name, _function, _example in _EXAMPLES:
    quarantine.command(_name, epilog=f"Example: smtpgw quarantine {_example}")(_function)
