"""Messages for tests: those CPython ships for its own email tests, and constructed ones.

:func:`tests.corpus.messages` gives all of them by name, with CRLF line ends.
"""

from tests.corpus.collect import constructed, cpython, messages

__all__ = ["constructed", "cpython", "messages"]
