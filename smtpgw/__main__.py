"""`python -m smtpgw` is the command `smtpgw`."""

from smtpgw.cli import main

main()
