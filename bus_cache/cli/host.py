"""``bus-cache host``: which hosts there are, and which images one holds."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from bus_cache.cli import command
from bus_cache.cli.output import Rows, Size, Time


class HostList(command.List):
    """List the known hosts, by name.

    Each with the number of images that it holds and the time of the newest evidence that
    it gave of any image, by its own clock.
    """

    examples = """\
examples:
  bus-cache host list
  bus-cache host list --sort-column newest_evidence
  bus-cache host list -f value -c host
"""

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Read the hosts."""
        with self.index() as index:
            rows = sorted(index.listing.hosts(), key=lambda row: row.host)
            self.hint_if_empty(rows, index)
        return ("host", "images", "newest_evidence"), (
            (row.host, row.images, Time(row.newest)) for row in rows
        )


class HostShow(command.Show):
    """Show one host: which images it holds, when and by what that was last evidenced.

    HOST is what Nova calls the compute service's host (openstack compute service list).
    "at" and "by" are as in bus-cache image show.
    """

    examples = """\
examples:
  bus-cache host show cmp-17
  bus-cache host show cmp-17 -f csv -c images
"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "host", type=command.name, metavar="HOST", help="the host's name in Nova"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        """Read one host and its images."""
        name = parsed_args.host
        with self.index() as index:
            host = index.listing.host(name)
            if host is None:
                deleted = index.listing.deletion(name)
                if deleted is not None:
                    raise command.CommandError(
                        f"the compute service of {name} was deleted at "
                        f"{Time(deleted).human_readable()}, and nothing was heard of it since"
                    )
                raise command.CommandError(f"nothing is known of a host {name}")
            held = sorted(index.listing.held(name), key=lambda pair: pair[0].name)
        return ("host", "newest_evidence", "holds", "images"), (
            host.host,
            Time(host.newest),
            len(held),
            Rows(
                ("image", "size", "at", "by"),
                (
                    (image.name, Size(image.size), Time(evidence.stamp), evidence.source)
                    for image, evidence in held
                ),
            ),
        )
