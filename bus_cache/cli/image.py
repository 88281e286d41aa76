"""``bus-cache image``: which images there are, and which hosts hold one."""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Iterable, Sequence
from typing import Any

from bus_cache import names
from bus_cache.cli import command
from bus_cache.cli.output import Rows, Size, Time
from bus_cache.index.listing import ImageRow, Listing


class ImageList(command.List):
    """List the known images, the most widely held first.

    Each with its size and the number of hosts that hold it. An image that was heard of
    but that no host is known to hold has 0 hosts. Where the id is unknown, the
    fingerprint stands for it: the hex SHA-1 of the id, which is the name of the image's
    file in a host's cache.
    """

    examples = """\
examples:
  bus-cache image list --limit 20
  bus-cache image list --long -f csv > images.csv
  bus-cache image list -f json | jq '.[] | select(.hosts < 2)'
"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--limit",
            type=command.positive,
            metavar="N",
            help="list the first N only; takes memory for N images, however many there are",
        )
        parser.add_argument("--long", action="store_true", help="list the fingerprints, too")
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Read the images."""
        with self.index() as index:
            images = index.listing.images()
            if parsed_args.limit:
                rows = heapq.nsmallest(parsed_args.limit, images, key=_most_held_first)
            else:
                rows = sorted(images, key=_most_held_first)
            self.hint_if_empty(rows, index)
        columns = ("image", "size", "hosts", *(("fingerprint",) if parsed_args.long else ()))
        return columns, (
            (row.name, Size(row.size), row.hosts, row.fingerprint)[: len(columns)] for row in rows
        )


def _most_held_first(row: ImageRow) -> tuple[int, str]:
    return -row.hosts, row.name


class ImageShow(command.Show):
    """Show one image: which hosts hold it, when and by what that was last evidenced.

    "at" is when the host was last known to hold the image, by the clock of the service
    that said so; "by" is what happened there: create, rebuild, evacuation, migration (a
    resize or cold migration), live_migration, rescue, precache; server (Nova's API listed
    a server of the image there); or agent: the host's bus-cache-agent sees it. "coming"
    has the hosts to which the image is on its way, and until when that is believed.
    """

    examples = """\
examples:
  bus-cache image show 7a1ee65c-0dd8-4b9b-9f1c-6a5b2f0c5d11
  bus-cache image show IMAGE -f value -c hosts
  bus-cache image show IMAGE -f json | jq -r '.hosts[].host'
"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "image",
            type=command.name,
            metavar="IMAGE",
            help="the image's id, or its fingerprint: the name of its file in a host's cache",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        """Read one image and its hosts."""
        with self.index() as index:
            image = find(index.listing, parsed_args.image)
            hosts = sorted(index.listing.holders(image.fingerprint))
            coming = sorted(index.listing.coming(image.fingerprint))
        return ("id", "fingerprint", "size", "held_by", "hosts", "coming"), (
            image.image_id,
            image.fingerprint,
            Size(image.size),
            len(hosts),
            Rows(
                ("host", "at", "by"),
                ((host, Time(evidence.stamp), evidence.source) for host, evidence in hosts),
            ),
            Rows(("host", "until"), ((host, Time(until)) for host, until in coming)),
        )


def find(listing: Listing, text: str) -> ImageRow:
    """Return the image of this fingerprint or id.

    :raises CommandError: nothing is known of it.
    """
    candidates = [names.fingerprint(text)]
    if names.is_fingerprint(text):
        candidates.insert(0, text)
    for fingerprint in candidates:
        image = listing.image(fingerprint)
        if image is not None:
            return image
    if any(map(listing.is_deleted, candidates)):
        raise command.CommandError(f"the image {text} was deleted: it is in no host's cache")
    raise command.CommandError(
        f"nothing is known of an image {text}: no host has been heard to hold it"
    )
