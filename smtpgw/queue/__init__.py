"""The queue: what is promised about a mail between our 250 and its delivery.

Read :mod:`smtpgw.queue.states` first: every state and every legal move, as data.
"""
