"""``bus-cache flush``: take a keyspace, and nothing else, out of Redis."""

from __future__ import annotations

import argparse
import itertools
import re
from typing import Any

from bus_cache import connect, names
from bus_cache.cli import command

BATCH = 500
"""Keys in one UNLINK."""


class Flush(command.Command):
    """Delete the index: every key of this keyspace in Redis, and no other key.

    Asks first, and refuses where nobody can be asked, unless --yes is given. From then
    on schedulers place instances as without bus-cache, until hosts have been heard of
    again; a bus-cache-consumer that runs goes on filling the index. A keyspace that
    another version of bus-cache wrote can be deleted, too.
    """

    examples = """\
examples:
  bus-cache flush
  bus-cache flush --yes --config-file old-region.conf
"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--yes", action="store_true", help="do not ask")
        self._parser = parser
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Ask, then delete."""
        if not parsed_args.yes and not self.app.stdin.isatty():
            self._parser.error("nobody can be asked here: give --yes to delete without a question")
        with self.index(check_schema=False) as index:
            if not parsed_args.yes and not self._confirmed(index):
                raise command.CommandError("nothing was deleted")
            count = flush(index.client, index.keyspace)
        self.app.stdout.write(
            f"Deleted {count} keys of the keyspace {index.keyspace!r} in Redis at {index.where}.\n"
        )
        return 0

    def _confirmed(self, index: command.Index) -> bool:
        counts = index.listing.counts()
        written = f", written with schema {counts.schema}" if counts.schema else ""
        self.app.stderr.write(
            f"The keyspace {index.keyspace!r} in Redis at {index.where} knows {counts.images} "
            f"images and {counts.hosts} hosts{written}.\nDelete it? [y/N] "
        )
        self.app.stderr.flush()
        return self.app.stdin.readline().strip().lower() in ("y", "yes")


def flush(client: connect.Client, keyspace: str) -> int:
    """Delete every key of a keyspace and return how many there were.

    The schema's version goes last: were the rest left by an interruption, no other
    version of bus-cache would take it for its own.
    """
    keys = names.Keys(keyspace)
    redis_client: Any = client  # redis-py types its commands for synchronous and asynchronous use
    found = redis_client.scan_iter(match=f"{_escaped(keys.prefix)}*", count=1000)
    others = (key for key in found if key != keys.schema.encode())
    count = 0
    while batch := list(itertools.islice(others, BATCH)):
        count += redis_client.unlink(*batch)
    return count + int(redis_client.unlink(keys.schema))


def _escaped(text: str) -> str:
    """Return a pattern of Redis' SCAN that matches the text itself."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", text)
