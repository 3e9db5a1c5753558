"""What a mail is, what may be done to it, and how: pure values and functions.

Nothing in this room opens a socket, reads a clock, logs, or knows of libmilter.
It imports nothing else of this project.
"""
