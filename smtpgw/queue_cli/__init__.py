"""The commands `smtpgw queue ...`: they work on the queue itself, daemon or not.

What a command changes, a running daemon sees within a second.  No lock is taken.
"""

from __future__ import annotations

import typer

from smtpgw.queue_cli import changing, flushing, listing, shape, showing, top

queue = typer.Typer(
    help="Look at the queue and change it, whether the gateway runs or not.",
    no_args_is_help=True,
)

_EXAMPLES = (
    ("list", listing.list_, "list --state deferred --destination example.net --older 1h"),
    ("show", showing.show, "show 0PmbkXzQ1a00xyz --message"),
    ("flush", flushing.flush, "flush --site example.net"),
    ("hold", changing.hold, "hold 0PmbkXzQ1a00xyz --why 'asked the sender'"),
    ("release", changing.release, "release ALL --yes"),
    ("requeue", changing.requeue, "requeue --reason 'no route to host'"),
    ("delete", changing.delete, "delete --sender 'spammer@*' --yes"),
    (
        "bounce",
        changing.bounce,
        "bounce --recipient '*@gone.example' --why 'example.net has moved'",
    ),
    ("shape", shape.shape, "shape --state deferred --by sender"),
    ("top", top.top, "top --once"),
)
for _name, _function, _example in _EXAMPLES:
    queue.command(_name, epilog=f"Example: smtpgw queue {_example}")(_function)
