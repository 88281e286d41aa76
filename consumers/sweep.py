"""Takes out of the index what Nova has removed by its own rule, where no agent tells."""

from __future__ import annotations

import collections
import time

from oslo_log import log as logging

from bus_cache.index.writer import Writer
from consumers import ageing

LOG = logging.getLogger(__name__)

HOLD = 60_000
"""Milliseconds after which another consumer looks at a host whose sweep did not come to an end."""

HOSTS = 100
"""Hosts of one sweep: some ten milliseconds. The rest comes with the next one, a second later."""


class Sweep:
    """Sweeps one keyspace; several do no harm."""

    def __init__(self, policy: ageing.Policy) -> None:
        """Take Nova's rule.

        :ivar counts: ``aged_out`` (images of hosts).
        """
        self.counts: collections.Counter[str] = collections.Counter()
        self._policy = policy

    def run(self, writer: Writer) -> int:
        """Take out what is due now; returns how many images of hosts.

        :raises bus_cache.index.writer.Unavailable: Redis is away or refuses to write for now.
        """
        now = int(time.time() * 1000)
        before = now - self._policy.wait
        hold = before + HOLD
        count, hosts = 0, 0
        for host in writer.ageing(before, hold, HOSTS):
            usage = writer.usage(host)
            outlook = ageing.outlook(
                self._policy,
                {} if usage.managed else usage.evidence,
                usage.uses,
                service=usage.service,
                newest=usage.newest,
                now=now,
            )
            left = writer.age(host, outlook.due, outlook.forget, hold, outlook.next)
            count += len(left)
            hosts += bool(left)
            LOG.debug("%s: aged out: %s", host, ", ".join(raw.hex() for raw in left) or "nothing")
        if count:
            self.counts["aged_out"] += count
            LOG.info("%d images have aged out, on %d hosts", count, hosts)
        return count
