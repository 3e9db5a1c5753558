"""The command `smtpgw`, started as fast as it can be.

What a program imports lives as long as the program: the garbage collector need not look at it,
neither while it is loaded, which takes a sixth of a short command's time, nor later.
"""

from __future__ import annotations

import gc


def main() -> None:
    """The entry point."""
    gc.disable()
    from smtpgw import cli

    gc.freeze()
    gc.enable()
    cli.main()
