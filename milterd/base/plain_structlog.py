"""structlog as it is without rich, which it takes for tracebacks wherever it finds it.

Our log renders its own: 3 MB and a tenth of a second less in each process that serves.  To be
imported where structlog is first: a command that prints with rich has it all the same.
"""

from __future__ import annotations

import sys

_ours = "rich" not in sys.modules
if _ours:
    sys.modules["rich"] = None  # type: ignore[assignment]  # what import calls "not there"
try:
    import structlog as structlog
    from structlog.typing import FilteringBoundLogger as FilteringBoundLogger
    from structlog.typing import WrappedLogger as WrappedLogger
finally:
    if _ours:
        del sys.modules["rich"]
