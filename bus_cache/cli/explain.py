"""``bus-cache explain``: what the weigher would say of each host for an image, and why."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bus_cache import conf as configuration
from bus_cache.cli import command
from bus_cache.cli.image import find
from bus_cache.cli.output import Column
from bus_cache.conf import image_cache_weigher
from weigher import policy

_SIZE_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Explain(command.List):
    """Explain what the weigher would say of each host now, for a server of an image.

    The weight is the product of four shares, each from 0 to 1: what the image saves by
    its size, whether the host has it ("there": 1 held, 0.8 on its way), how little the
    host builds ("idle"), and its free RAM beside the others ("room"). The gain is the
    weight times the multiplier: so much is added to what the host weighs by Nova's own
    weighers, and the largest sum is chosen. The best come first.

    Which hosts there are, what they build and their free RAM is not in the index. With
    --os-cloud Nova's API is asked for it, with the credentials of clouds.yaml (role admin);
    give --ram then, too. Without, the hosts are those that the index knows, all idle and as
    full as each other, and it is taken for granted that there are others without the image.
    The scheduler knows more: its own decisions of the last seconds, which hosts pass its
    filters, and multipliers of aggregates; and it counts builds, where Nova's API tells all
    servers that are worked on. What it said of a boot is in its log with debug = True.

    The weigher's options count as in nova.conf: give that file with --config-file, before
    bus_cache.conf, whose Redis user may ask for all of this.
    """

    examples = """\
examples:
  bus-cache explain 7a1ee65c-0dd8-4b9b-9f1c-6a5b2f0c5d11
  bus-cache explain IMAGE --config-file /etc/nova/nova.conf \\
      --config-file /etc/bus_cache/bus_cache.conf --os-cloud mycloud --ram 8192
  bus-cache explain IMAGE --size 8G -f json | jq '.[] | select(.weight > 0)'
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
        parser.add_argument(
            "--size",
            type=_size,
            metavar="BYTES",
            help="the image's size, such as 8G (default: what is known; Nova's notifications "
            "tell it with the first boot)",
        )
        parser.add_argument(
            "--ram",
            type=command.positive,
            default=0,
            metavar="MIB",
            help="the server's RAM, of which half counts on its host: give the flavor's, or room "
            "looks better than it is (default 0); counts with --os-cloud only",
        )
        parser.add_argument(
            "--os-cloud",
            metavar="NAME",
            help="ask Nova's API of this cloud in clouds.yaml for builds and free RAM; "
            "envvars is the one of the OS_* variables",
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Read the index, and Nova's API where that is wanted."""
        with self.index() as index:
            image = find(index.listing, parsed_args.image)
            held = {host for host, _ in index.listing.holders(image.fingerprint)}
            coming = {host for host, _ in index.listing.coming(image.fingerprint)}
            hosts = sorted({row.host for row in index.listing.hosts()} | held | coming)
            groups = [(image_cache_weigher.GROUP, image_cache_weigher.OPTIONS)]
            configuration.register(index.conf, groups)
            configuration.check(index.conf, groups)
            group = index.conf[image_cache_weigher.GROUP]
            options, multiplier = policy.options(group), group.multiplier
        size = image.size if parsed_args.size is None else parsed_args.size
        if size is None:
            raise command.CommandError("the image's size is not known: give it with --size")
        known = _of_nova(parsed_args.os_cloud) if parsed_args.os_cloud is not None else {}
        if known:
            hosts = sorted(known)
        if self.app.stderr.isatty():
            for sentence in doubts(bool(known), parsed_args.ram, multiplier):
                self.app.stderr.write(f"{sentence}\n")
        there = [
            policy.HELD if h in held else policy.COMING if h in coming else policy.ABSENT
            for h in hosts
        ]
        state = [known.get(host, (0, 0)) for host in hosts]
        if not known:  # there are more hosts than the index knows
            there.append(policy.ABSENT)
            state.append((0, 0))
        candidates = policy.Candidates(
            there, [builds for builds, _ in state], [free for _, free in state]
        )
        columns = ("host", "image", "builds", "free_ram_mb", "weight", "gain", "why")
        if not hosts:
            return columns, ()
        ram = parsed_args.ram if known else 0
        scale = policy.scale(size, ram, options, candidates)
        weights = policy.weights(scale, candidates)
        rows = [
            (
                host,
                _IMAGE[candidates.there[which]],
                Column(known[host][0] if known else None),
                Column(known[host][1] if known else None),
                round(weights[which], 3),
                round(multiplier * weights[which], 3),
                _why(scale, candidates, which),
            )
            for which, host in enumerate(hosts)
        ]
        return columns, sorted(rows, key=lambda row: (-row[4], row[0]))


_IMAGE = {policy.HELD: "held", policy.COMING: "on its way", policy.ABSENT: "-"}


def doubts(known: bool, ram_mb: int, multiplier: float) -> Iterator[str]:
    """Yield what makes the answer another one than nova-scheduler's."""
    if not known:
        yield (
            "Without --os-cloud: only hosts that the index knows, each as if it built nothing and "
            "were as full as the others, and as if others had no image."
        )
    elif ram_mb == 0:
        yield (
            "Without --ram: for a server without RAM. A host with less room than it shows may gain "
            "nothing."
        )
    if multiplier == 0.0:
        yield (
            "[image_cache_weigher] multiplier is 0 in the configuration that was read: the weigher "
            "is off, but where an aggregate says otherwise."
        )


def _why(scale: policy.Scale, hosts: policy.Candidates, which: int) -> str:
    if scale.saved == 0.0:
        return "an image as small as this weighs nothing"
    if not scale.differs:
        return "as all hosts: the image makes no difference"
    if hosts.there[which] == policy.ABSENT:
        return "would fetch it"
    return str(policy.shares(scale, hosts, which))


def _of_nova(cloud: str) -> dict[str, tuple[int, int]]:
    """Return host -> builds and free RAM in MiB; one at least.

    :raises CommandError: Nova's API can't be asked, or knows none.
    """
    from consumers import nova_api  # noqa: PLC0415 - imports much

    try:
        found = nova_api.NovaApi(cloud).hypervisors()
    except nova_api.ApiError as error:
        raise command.CommandError(str(error)) from error
    if not found:
        raise command.CommandError("Nova's API lists no hypervisors with their builds and free RAM")
    return found


def _size(text: str) -> int:
    """An argparse type: bytes, or with one of K, M, G, T behind."""
    digits, unit = (text[:-1], text[-1:].upper()) if text[-1:].isalpha() else (text, "")
    if unit not in _SIZE_UNITS or not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise argparse.ArgumentTypeError(f"{ascii(text)[:80]} is no size, such as 8G")
    return int(digits) * _SIZE_UNITS[unit]
