"""Doors to the world outside the filters: the virus scanner, dkimpy, key files.

Only modules in this room import `clamd` and `dkim`, or read private keys.  Of
ours they import `milterd.core` alone.
"""
