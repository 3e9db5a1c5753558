"""`python -m smtpgw` is the command `smtpgw`."""

from smtpgw.command import main

main()
