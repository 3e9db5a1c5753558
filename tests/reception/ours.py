"""Our gateway in the same namespace, by the same world."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.gateway.gateway import Gateway, until
from tests.reception.generated import World
from tests.reception.names import SERVER, SERVER6
from tests.reception.netns import Namespace

DNS = '[smtpgw.dns]\nnameservers = ["127.0.0.1:53"]\n'

_FAULTS = ("internal error", "session failed", "no road for a session")


@dataclass
class Ours:
    """`gateway` runs in the namespace `space`; its tables and queue are below `place`."""

    space: Namespace
    place: Path
    gateway: Gateway

    def settings(self, world: World, ports: Sequence[int]) -> None:
        """Write the world as gatepost.toml."""
        world.write(self.place)
        self.gateway.file.write_text(
            '[log]\nformat = "json"\n[metrics]\nsmtpgw = ""\n'
            + world.toml(self.place, ports, (SERVER, f"[{SERVER6}]"))
            + f'[smtpgw.queue]\ndirectory = "{self.gateway.queue}"\n{DNS}{world.extra}'
        )

    def become(self, world: World, ports: Sequence[int]) -> None:
        """Go by this world from now on."""
        self.settings(world, ports)
        before = self.gateway.count("ready")
        process = self.gateway.process
        assert process is not None
        process.send_signal(signal.SIGHUP)
        until(lambda: self.gateway.count("ready") > before or self._refused(), 120, "ready")
        assert not self._refused(), self._refused()

    def faults(self) -> list[str]:
        """What its log says of faults of its own."""
        return [str(each)[-3000:] for each in self.gateway.log() if each["event"] in _FAULTS]

    def _refused(self) -> list[object]:
        return [
            each["reason"]
            for each in self.gateway.log()
            if each["event"].startswith(("settings not taken", "worker keeps its old"))
        ]


@contextmanager
def ours(space: Namespace, world: World, ports: Sequence[int]) -> Iterator[Ours]:
    """Run it, first by this world."""
    place = Path(tempfile.mkdtemp(dir="/tmp", prefix="gw"))
    place.chmod(0o755)
    one = Ours(space, place, Gateway(place))
    try:
        one.settings(world, ports)
        one.gateway.start(prefix=space.prefix)
        yield one
    finally:
        one.gateway.kill()
        shutil.rmtree(place)
