"""Real daemons as peers: each in a private directory, on private sockets of the loopback.

Every module has a context manager that starts one daemon, waits until it answers,
yields what a test needs to talk to it, and stops it by its process id.
:mod:`tests.peers.fixtures` offers the same as pytest fixtures.  A peer that is not
installed is a failure, not a skip: ``make test`` installs them all.
"""
