"""Mail handed in on this machine: the command, and the drop directory it writes to.

Nothing here needs the gateway to run, or costs much to import: the command is run for
every mail.
"""
