"""``bus-cache doctor``: what is wrong with this set-up, and what to do about it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from bus_cache.cli import command
from bus_cache.cli.app import without_credentials
from bus_cache.cli.output import Column

WRONG = 3
"""The exit code where a finding is a warning or a problem."""


class Doctor(command.List):
    """Check what goes wrong in practice, and say what to do.

    In order: the options; Redis; each message bus, its exchanges and queues, and who reads
    ours; queues that nobody reads; the notifications that are sent just now; clocks; the
    weigher; agents; hosts that cache nothing; a sample of the index against Nova's API.

    Each row has a verdict: ok, warning, problem, or "not checked", with what it needs to be.
    It listens on the buses for --seconds: boot a server meanwhile. Nothing is changed: a queue
    of its own goes when it ends. Run it with the consumer's configuration, on its machine.
    """

    examples = """\
examples:
  bus-cache doctor
  bus-cache doctor --nova-conf /etc/nova/nova.conf       on nova-scheduler's machine
  bus-cache doctor --seconds 120 --os-cloud mycloud -f json

exit codes:
  0  nothing is wrong
  1  it could not be checked at all
  3  something is: a row is a warning or a problem
"""

    _wrong = False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--nova-conf",
            metavar="FILE",
            action="append",
            default=[],
            help="nova-scheduler's nova.conf; may be given several times, as to nova-scheduler",
        )
        parser.add_argument(
            "--seconds",
            type=command.positive,
            metavar="N",
            default=10,
            help="how long to listen on the buses (default: %(default)s)",
        )
        parser.add_argument(
            "--os-cloud",
            metavar="NAME",
            default="",
            help="a cloud in clouds.yaml (default: [consumer] cloud, then the OS_* variables)",
        )
        parser.set_defaults(fit_width=True)  # long sentences, on a terminal
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run the command and return its exit code."""
        code: int = super().run(parsed_args)
        return code or (WRONG if self._wrong else 0)

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Look, then judge."""
        with command.consumer_extra("doctor"):
            from consumers import diagnosis, doctor  # noqa: PLC0415 (an extra)
        conf, read = doctor.options(self.config_arguments())
        if conf is not None and self.app.stderr.isatty():
            self.app.stderr.write(f"Listening for {parsed_args.seconds} s ...\n")
        facts = doctor.examine(
            conf,
            read,
            nova_files=parsed_args.nova_conf,
            cloud=parsed_args.os_cloud,
            seconds=parsed_args.seconds,
        )
        found = diagnosis.diagnose(facts)
        self._wrong = diagnosis.is_wrong(found)
        return ("check", "verdict", "found", "advice"), [
            (
                each.check,
                each.verdict,
                without_credentials(each.found),
                Column(each.advice or None),
            )
            for each in found
        ]
