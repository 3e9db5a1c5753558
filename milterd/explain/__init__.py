"""`milterlab explain`: our own filters on one mail, without a socket, and why they decide so.

A composition root beside milterd's own: it is the one room that knows the settings, the
filters and the lab.  Nobody but `milterd.lab.cli`, which gathers the commands, knows it.
"""
