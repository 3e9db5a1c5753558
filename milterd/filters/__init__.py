"""The filters, each with its options and the way it is built.

`FILTERS` is what a host and the configuration go by: a name, the frozen options
class, and a function that builds the filter or raises
:class:`~milterd.filters.setup.SetupError` with everything that is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from milterd.core.decision import Decision, Trace
from milterd.core.filter import Filter
from milterd.core.mail import Mail
from milterd.filters.attachment_options import AttachmentsOptions
from milterd.filters.clamav import ClamavFilter, ClamavOptions
from milterd.filters.dkim import DkimFilter, DkimOptions
from milterd.filters.headers import HeadersFilter, HeadersOptions
from milterd.filters.own_options import OwnOptions
from milterd.filters.setup import SetupError
from milterd.ports.beyond import Beyond
from milterd.ports.clamd import Clamd, ClamdAddress
from milterd.ports.clamds import Clamds, Watch
from milterd.ports.thorough import Remembering, Thorough


class CheckedFilter(Filter[Any], Protocol):
    """A filter that can look after itself, for `milterd check`, and say what it tried, for
    `milterlab explain`."""

    def gather(self, mail: Mail, trace: Trace | None = None) -> Any:
        """See :meth:`Filter.gather`; tells `trace` of each rule that it tries."""
        ...

    def decide(self, mail: Mail, facts: Any, trace: Trace | None = None) -> Decision:
        """See :meth:`Filter.decide`; tells `trace` of each setting that it holds facts against."""
        ...

    def check(self) -> tuple[str, ...]:
        """What is wrong with it or its peers now; empty when all is well."""
        ...


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clocks a filter may use: seconds since the epoch, and seconds that only grow."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Entry:
    """A filter that can be built: `build(options, clocks)`."""

    options: type[Any]
    build: Callable[[Any, Clocks], CheckedFilter]


def build_clamav(options: ClamavOptions, clocks: Clocks = Clocks()) -> ClamavFilter:
    """The clamav filter, with its clamds as one scanner."""
    try:
        addresses = [ClamdAddress.parse(each) for each in options.clamd]
    except ValueError as error:
        raise SetupError("clamav", [str(error)]) from None
    clock = clocks.monotonic
    each_of = (
        Clamd(
            address,
            timeout=options.timeout,
            max_size=options.max_size,
            memory_limit=options.memory_limit,
            clock=clock,
        )
        for address in addresses
    )
    clamds = Clamds(list(each_of), timeout=options.timeout, retry=options.retry, clock=clock)
    thorough = Thorough(clamds, options.readings, clock)
    watch = Watch(clamds, oldest=options.oldest, clock=clock, wall=clocks.wall)
    beyond = Beyond(clamds, options.readings, clock)
    remembering = Remembering(thorough, options.memory, clock)
    return ClamavFilter(options, remembering, watch, clock, beyond=beyond)


def build_attachments(options: AttachmentsOptions, clocks: Clocks = Clocks()) -> CheckedFilter:
    """The attachments filter; reads its rules.  Its processes start when a file needs them."""
    from milterd.filters.attachments import AttachmentsFilter
    from milterd.ports.attached.pool import Pool

    pool = Pool(options.limits, options.workers, clocks.monotonic)
    return AttachmentsFilter(options, pool, clocks.monotonic)


def build_dkim(options: DkimOptions, clocks: Clocks = Clocks()) -> DkimFilter:
    """The dkim filter; reads its key files."""
    return DkimFilter(options, clocks.wall, clocks.monotonic)


def build_headers(options: HeadersOptions, clocks: Clocks = Clocks()) -> HeadersFilter:
    """The headers filter; reads its rule files."""
    return HeadersFilter(options, clocks.monotonic, clocks.wall)


def build_own(options: OwnOptions, _clocks: Clocks = Clocks()) -> CheckedFilter:
    """A filter of a postmaster's own; runs its file."""
    from milterd.filters.own import OwnFilter

    return OwnFilter(options)


FILTERS: Mapping[str, Entry] = {
    "clamav": Entry(ClamavOptions, build_clamav),
    "attachments": Entry(AttachmentsOptions, build_attachments),
    "dkim": Entry(DkimOptions, build_dkim),
    "headers": Entry(HeadersOptions, build_headers),
}
"""Every filter there is, by the name it has in configuration, log and metrics."""
