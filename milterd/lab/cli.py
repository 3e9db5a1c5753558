"""The command `milterlab`: its commands gathered.  Exit statuses: `milterd.lab.status`."""

from __future__ import annotations

import typer

from milterd.explain.command import explain
from milterd.lab.commands.bench import bench
from milterd.lab.commands.chain import chain
from milterd.lab.commands.conform import conform
from milterd.lab.commands.fuzz import fuzz
from milterd.lab.commands.record import record
from milterd.lab.commands.replay import replay
from milterd.lab.commands.run import run
from milterd.lab.commands.send import send
from milterd.lab.commands.show import redact, show

STATUSES = (
    "Exit codes: 0 accepted, 1 refused, 2 wrong usage, 3 the milter broke the protocol, "
    "4 it did not answer in time, 5 it is not there or left in the middle."
)

app = typer.Typer(
    help="Play an MTA to any milter, and see what it answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _main() -> None:
    """Play an MTA to any milter, and see what it answers."""


app.command(
    epilog="Example: milterlab send unix:/run/opendkim/opendkim.sock mail.eml "
    f"--from joe@example.net --auth joe --out signed.eml.  {STATUSES}"
)(send)


app.command(
    epilog="Example: milterlab conform unix:/run/opendkim/opendkim.sock --to you@example.net.  "
    "Exit codes: 0 no check failed, 1 some did, 2 wrong usage, 5 there is no milter."
)(conform)


app.command(
    epilog="Example: milterlab run tests/milter --socket unix:/run/my.sock --junit out.xml.  "
    "Exit codes: 0 all as expected, 1 some expectation failed, 2 a scenario or an option is wrong, "
    "3 the milter broke the protocol, 4 it did not answer in time, 5 it is not there or left."
)(run)


app.command(
    epilog="Example: milterlab chain unix:/run/clamav/clamav-milter.ctl "
    f"unix:/run/opendkim/opendkim.sock mail.eml --auth joe --out signed.eml.  {STATUSES}"
)(chain)


app.command(
    epilog="Example: milterlab explain mail.eml --config /etc/gatepost/gatepost.toml --auth joe.  "
    "Exit codes: 0 the mail passed, 1 it was refused, 2 wrong usage or settings."
)(explain)


app.command(
    epilog="Example: milterlab record unix:/run/lab/tap.sock unix:/run/opendkim/opendkim.sock "
    "--tape today.tape --mode 666.  Exit codes: 0 recorded, 2 wrong usage or the tape could not "
    "be written to the end, 5 some connection found no milter."
)(record)
app.command(
    epilog="Example: milterlab replay today.tape unix:/run/opendkim/new.sock "
    "--mask 'DKIM-Signature:\\b(t|x|b)=[^;]*'.  "
    "Exit codes: 0 no difference, 1 some, 2 wrong usage or a damaged tape, 3 the milter broke the "
    "protocol, 4 it did not answer in time, 5 it is not there or left in the middle."
)(replay)
app.command(
    epilog="Example: milterlab show today.tape --connection 3.  "
    "Exit codes: 0 shown, 2 wrong usage or a damaged tape."
)(show)
app.command(
    epilog="Example: milterlab redact today.tape shared.tape.  "
    "Exit codes: 0 written, 2 wrong usage or a damaged tape."
)(redact)


app.command(
    epilog="Example: milterlab bench unix:/run/opendkim/opendkim.sock --connections 20 "
    "--size 4k,1M --json.  Exit codes: 0 measured, whatever the verdicts; 2 wrong usage, 3 the "
    "milter broke the protocol, 4 it did not answer in time, 5 it is not there or left in the "
    "middle."
)(bench)


app.command(
    epilog="Example: milterlab fuzz unix:/run/lab/my.sock --duration 60 --out findings "
    "--command 'python3 mymilter.py'.  Exit codes: 0 nothing found, 1 something found, 2 wrong "
    "usage, 5 the milter cannot be started."
)(fuzz)


def main() -> None:
    """The entry point of the console script."""
    app()
