"""``bus-cache sync``: compare the index with Nova's API, and mend it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from bus_cache.cli import command
from bus_cache.cli.output import Column
from bus_cache.conf import consumer as conf
from bus_cache.index import writer

DRIFT = 3
"""The exit code where the index and Nova differ, and were left so."""


class Sync(command.List):
    """Compare the index with Nova's API: fill an empty index, report or mend another.

    Lists all servers of all projects, and the compute services, with the credentials of
    clouds.yaml or OS_*; they need the role admin. Where the index is empty, it is filled
    from that. Else each difference becomes a row, and --repair mends them:

      image_missing   a server runs on a host that is not known to hold its image
      server_missing  a server uses an image on a host, and the index does not know it
      server_gone     the index has a server on a host where it is not any more
      host_gone       the index knows a host that has no compute service

    An image that is held though no server uses it is no difference: hosts keep images for
    a while. Of a host whose agent speaks Nova can't know what it holds: no image is missed
    there. The rows go to stdout, what was read and done to stderr. Safe while
    bus-cache-consumer runs, and in the middle of Nova's work: what happened in the last
    minute is left to Nova's notifications.
    """

    examples = """\
examples:
  bus-cache sync --os-cloud mycloud          report, or fill an empty index
  bus-cache sync --repair
  bus-cache sync --quiet -f json

exit codes:
  0  the index agrees with Nova, or does so now
  1  an error; what was mended before it stays so
  3  there are differences, and they were left
"""

    _left = False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--repair", action="store_true", help="mend what differs")
        parser.add_argument(
            "--os-cloud",
            metavar="NAME",
            help="a cloud in clouds.yaml (default: [consumer] cloud, then OS_CLOUD and the other "
            "OS_* variables)",
        )
        parser.add_argument(
            "--quiet", action="store_true", help="neither a progress bar nor a summary on stderr"
        )
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run the command and return its exit code."""
        code: int = super().run(parsed_args)
        return code or (DRIFT if self._left else 0)

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Ask Nova, compare, mend."""
        from consumers import nova_api, reconcile  # noqa: PLC0415 (the other commands start faster)

        found: list[reconcile.Drift] = []
        with self.index() as index:
            group = index.conf[conf.GROUP]
            bar = _Bar(self.app.stderr, parsed_args.quiet)
            try:
                report = reconcile.run(
                    nova_api.NovaApi(parsed_args.os_cloud or group.cloud),
                    writer.Writer(index.client, index.keyspace),
                    repair=parsed_args.repair,
                    ignore_hosts=group.ignore_hosts,
                    tell=found.append,
                    progress=bar,
                )
            except (nova_api.ApiError, reconcile.Refused) as error:
                raise command.CommandError(str(error)) from error
            finally:
                bar.close()
        if not parsed_args.quiet:
            self.app.stderr.write(f"{report}\n")
        self._left = report.left > 0
        return ("kind", "host", "subject", "index", "nova"), (
            (each.kind, each.host, Column(each.subject or None), each.indexed, each.listed)
            for each in found
        )


class _Bar:
    """Shows how far it is, where stderr is a terminal."""

    def __init__(self, stream: Any, quiet: bool) -> None:
        self._stream = stream
        self._quiet = quiet
        self._what = ""
        self._shown: Any = None

    def __call__(self, what: str, done: int, of: int | None) -> None:
        if self._quiet or not self._stream.isatty():
            return
        if what != self._what:
            import tqdm  # noqa: PLC0415 (for this command only)

            self.close()
            self._what = what
            self._shown = tqdm.tqdm(
                desc=what, total=of, unit="", mininterval=0, file=self._stream, dynamic_ncols=True
            )
        self._shown.update(done - self._shown.n)

    def close(self) -> None:
        if self._shown is not None:
            self._shown.close()
            self._shown = None
