"""``bus-cache host``: which hosts there are, and which images one holds."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from bus_cache.cli import command
from bus_cache.cli.output import Column, Rows, Size, Time
from bus_cache.index.listing import HostRow


class HostList(command.List):
    """List the known hosts, by name.

    Each with the number of images that it holds and the time of the newest evidence that
    it gave of any image, by its own clock. "known_by" is "agent" where the host's
    bus-cache-agent tells what it holds, else "notifications": Nova's. "agent_heard" is
    when its agent was last heard, by bus-cache-consumer's clock: with "notifications",
    the agent is silent since then, or has not told all yet.
    """

    examples = """\
examples:
  bus-cache host list
  bus-cache host list --sort-column newest_evidence
  bus-cache host list -f value -c host
  bus-cache host list -f json | jq '.[] | select(.known_by != "agent")'
"""

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Read the hosts."""
        with self.index() as index:
            rows = sorted(index.listing.hosts(), key=lambda row: row.host)
            self.hint_if_empty(rows, index)
        return ("host", "images", "newest_evidence", "known_by", "agent_heard"), (
            (row.host, row.images, Time(row.newest), _known_by(row), Time(row.agent_heard))
            for row in rows
        )


def _known_by(row: HostRow) -> str:
    return "agent" if row.by_agent else "notifications"


class HostShow(command.Show):
    """Show one host: which images it holds, when and by what that was last evidenced.

    HOST is what Nova calls the compute service's host (openstack compute service list).
    "known_by" and "agent_heard" are as in bus-cache host list, "at" and "by" as in
    bus-cache image show. "agent_gap": a part of what the agent said was lost, and it is
    asked for all again. "nova_compute" is up or down as far as is known, "servers" so
    many use an image there.
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
            state = index.listing.state(name)
        fields = {
            "host": host.host,
            "newest_evidence": Time(host.newest),
            "known_by": _known_by(host),
            "agent_heard": Time(host.agent_heard),
            "agent_gap": state.gap,
            "nova_compute": Column(None if state.up is None else "up" if state.up else "down"),
            "servers": state.servers,
            "holds": len(held),
            "images": Rows(
                ("image", "size", "at", "by"),
                (
                    (image.name, Size(image.size), Time(evidence.stamp), evidence.source)
                    for image, evidence in held
                ),
            ),
        }
        return tuple(fields), tuple(fields.values())
