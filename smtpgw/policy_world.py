"""The rooms that restrictions lean on, for one worker: address verification, policy services, the
greylist and throttles.  They live as long as the worker; settings change what they go by.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace

from milterd.base import logs
from smtpgw import outbound, peers, wiring
from smtpgw.addresses import Addresses
from smtpgw.config import Smtpgw
from smtpgw.config.reception import Reception
from smtpgw.delegation.client import PolicyClient
from smtpgw.delivery.fixed import Fixed
from smtpgw.delivery.outcome import Deliverer
from smtpgw.delivery.pool import SOCKETS
from smtpgw.delivery.probe import MaildirProbe, ProbeCarrier
from smtpgw.dns.answers import Resolver
from smtpgw.exempt import Exempt
from smtpgw.generic import GenericDelivery
from smtpgw.greylist.store import GreylistStore
from smtpgw.greylist.throttle import SharedCounters, Throttles
from smtpgw.plan import Plan
from smtpgw.policy.ports import Ports
from smtpgw.policy_ports import GreylistPort, ServicePort, ThrottlePort, VerifyPort
from smtpgw.probing import AddressProber
from smtpgw.stores.shared import StoreDown
from smtpgw.verify.cache import Cache
from smtpgw.verify.sender import ProbeSender
from smtpgw.verify.verifier import Verifier, VerifierOptions
from smtpgw.wiring import policy_service as wiring_policy_service
from smtpgw.wiring import verify as wiring_verify

_GREYLIST, _THROTTLE = "greylist.sqlite", "throttle.sqlite"


class PolicyWorld:
    """Use :meth:`apply`, then :meth:`equip`."""

    def __init__(self, settings: Smtpgw, resolver: Resolver) -> None:
        self._resolver = resolver
        place = settings.queue.directory
        self._greylist = GreylistStore(
            str(place / _GREYLIST), wiring_policy_service.greylist(settings), time.time
        )
        self._throttles = Throttles(SharedCounters(str(place / _THROTTLE), time.time))
        self._client = PolicyClient(clock=time.monotonic)
        self._verifier: Verifier | None = None
        self._verify_path = ""
        self._exempt = Exempt()
        self._sender = ProbeSender()
        self._cleaning: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._log = logs.get("policy")

    def apply(self, settings: Smtpgw, addresses: Addresses) -> None:
        """Go by these settings from now on."""
        self._greylist.options = wiring_policy_service.greylist(settings)
        own = addresses.greylist
        self._exempt = Exempt(*own, tuple(settings.greylist.exempt_dnswl), self._resolver)
        self._verification(settings, addresses)
        if self._cleaning is not None:
            self._cleaning.cancel()
        interval = settings.address_verify_cache_cleanup_interval
        self._cleaning = asyncio.ensure_future(self._clean(interval)) if interval else None

    def equip(
        self, settings: Smtpgw, plans: Mapping[str, Plan], *, stress: bool = False
    ) -> dict[str, Plan]:
        """The plans of listeners with what their restrictions lean on."""
        by_name = {each.name: each for each in settings.listener}
        return {
            name: replace(
                plan, ports=self.ports(settings, settings.reception(by_name[name], stress=stress))
            )
            for name, plan in plans.items()
        }

    def ports(self, settings: Smtpgw, reception: Reception) -> Ports:
        """What a listener's restrictions have, whose settings are `reception`."""
        assert self._verifier is not None  # noqa: S101 - apply() comes first
        throttles = {
            name: wiring_policy_service.throttle(name, each)
            for name, each in settings.throttle.items()
        }
        accept = settings.address_verify_cache_failure == "accept"
        return Ports(
            resolver=self._resolver,
            verifier=VerifyPort(self._verifier, wiring_verify.polls(reception), accept, self._log),
            policy_service=ServicePort(
                self._client,
                wiring_policy_service.client(reception),
                str(SOCKETS),
                self._log,
            ),
            greylist=GreylistPort(
                self._greylist,
                settings.greylist,
                self._exempt.of,
                settings.hostname,
                time.time,
                self._log,
            ),
            probes=self._probes,
            throttle=ThrottlePort(self._throttles, throttles, settings.throttle, self._log),
        )

    def _probes(self, address: bytes) -> bool:
        return self._sender.knows(address, time.time())

    def _verification(self, settings: Smtpgw, addresses: Addresses) -> None:
        self._sender = wiring_verify.sender(settings, addresses.standard.origin)
        prober = self._prober(settings, addresses)
        path = wiring_verify.path(settings)
        if self._verifier is not None and path == self._verify_path:
            self._verifier.prober = prober
            self._verifier.cache.options = wiring_verify.cache(settings)
            return
        if self._verifier is not None:
            leaving = asyncio.ensure_future(self._verifier.close())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        self._verify_path = path
        self._verifier = Verifier(
            Cache(path, wiring_verify.cache(settings), time.time),
            prober,
            log=logs.get("verify"),
            options=VerifierOptions(settings.address_verify_process_limit),
        )

    def _prober(self, settings: Smtpgw, addresses: Addresses) -> AddressProber:
        """By the hosts and the rules of deliveries, with connections of its own."""
        carrier, fixed = ProbeCarrier(peers.pool(settings)), Fixed()
        smtp: Deliverer = outbound.delivery(settings, self._resolver, carrier)
        if addresses.generic is not None:
            smtp = GenericDelivery(smtp, addresses.generic, signed=settings.rewrite_signed_headers)
        return AddressProber(
            addresses,
            {
                "lmtp": carrier,
                "smtp": smtp,
                "relay": smtp,
                "maildir": MaildirProbe(),
                "error": fixed,
                "retry": fixed,
                "discard": fixed,
                "hold": fixed,
            },
            wiring.courier(settings).limits,
            self._sender,
            clock=time.time,
            log=logs.get("verify"),
        )

    async def _clean(self, interval: float) -> None:
        """Every now and then, until cancelled; each worker does, for nothing is lost by it."""
        while True:
            await asyncio.sleep(interval)
            for each in (self._verifier.cache if self._verifier else None, self._greylist):
                with contextlib.suppress(StoreDown):  # whoever needs it tells of it
                    if each is not None:
                        await each.clean()

    async def close(self) -> None:
        """Let go of everything."""
        if self._cleaning is not None:
            self._cleaning.cancel()
        if self._verifier is not None:
            await self._verifier.close()
        await asyncio.gather(*self._leaving)
        await asyncio.gather(self._client.close(), self._greylist.close(), self._throttles.close())
