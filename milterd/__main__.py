"""`python -m milterd` is the command `milterd`."""

from milterd.cli import main

main()
