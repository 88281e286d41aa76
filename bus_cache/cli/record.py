"""``bus-cache record`` and ``replay``: what was on the bus, into a file, and into an index."""

from __future__ import annotations

import argparse
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bus_cache import conf as configuration
from bus_cache import names
from bus_cache.cli import command
from bus_cache.conf import opts
from bus_cache.index import writer


class Record(command.Command):
    """Record what is on the buses from now on into a file, until Ctrl-C.

    By a queue of its own on each bus, which goes when it ends: consumers miss nothing. With
    --anonymise, hosts, images and servers get made-up names, the same one each time, and
    all that the consumer does not read is left out: for a report of a bug. Without it the
    file has all that Nova says, projects, users and addresses among it.
    """

    examples = """\
examples:
  bus-cache record --anonymise --seconds 600 bug.recording
  bus-cache replay bug.recording
"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        parser.add_argument("file", metavar="FILE", type=Path, help="must not be there yet")
        parser.add_argument("--anonymise", action="store_true", help="take names out")
        parser.add_argument(
            "--seconds", type=command.positive, metavar="N", help="end after so long"
        )
        parser.add_argument(
            "--messages", type=command.positive, metavar="N", help="end after so many"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Record."""
        with command.consumer_extra("recording"):
            from bus_cache.conf import messaging  # noqa: PLC0415 (an extra)
            from consumers import bus, recording, tap, transport  # noqa: PLC0415
        conf = configuration.load(
            self.app.NAME, self.config_arguments(), opts.CONSUMER_GROUPS, messaging.register
        )
        buses = transport.transports(conf)
        deadline = time.monotonic() + (parsed_args.seconds or 10**9)
        anonymiser = (
            recording.Anonymiser(secrets.token_bytes(32)) if parsed_args.anonymise else None
        )
        count = 0
        try:
            file = open(parsed_args.file, "xb", opener=_for_its_owner)  # noqa: SIM115 - used below
        except FileExistsError:
            raise command.CommandError(f"{parsed_args.file} is there already") from None
        except OSError as error:
            raise command.CommandError(f"{parsed_args.file}: {error.strerror}") from None
        recorder = recording.Recorder(file, anonymiser)
        try:
            with file, tap.tap(buses, bus.Topology.from_conf(conf)) as messages:
                where = ", ".join(each.shown for each in buses)
                self.app.stderr.write(f"Recording {where}; Ctrl-C ends it.\n")
                for each in messages:
                    if each is tap.IDLE:
                        file.flush()
                    else:
                        recorder.write(each)
                        count += 1
                    if count == parsed_args.messages or time.monotonic() >= deadline:
                        break
        except KeyboardInterrupt:
            pass
        except (bus.BusError, OSError) as error:
            if not count:
                parsed_args.file.unlink()
            raise command.CommandError(f"recording ended after {count} messages: {error}") from None
        more = f", {recorder.left_out} of them left out" if recorder.left_out else ""
        self.app.stderr.write(f"Recorded {count} messages{more}.\n")
        return 0


def _for_its_owner(path: str, flags: int) -> int:
    """Open a new file that nobody else may read: it can have names of users and projects."""
    return os.open(path, flags, 0o600)


class Replay(command.Command):
    """Play a recording into an index of its own: what a consumer would make of it.

    Into the keyspace bus_cache_replay, or another one, which must be empty: never among what
    is known of a cloud. To look at it, name that keyspace in a configuration file.
    """

    examples = """\
examples:
  bus-cache replay bug.recording
  printf '[bus_cache]\\nkeyspace = bus_cache_replay\\n' > replay.conf
  bus-cache status --config-file /etc/bus_cache/bus_cache.conf \\
      --config-file /etc/bus_cache/cli.conf --config-file replay.conf
  bus-cache flush --yes --config-file /etc/bus_cache/bus_cache.conf \\
      --config-file /etc/bus_cache/cli.conf --config-file replay.conf
"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        parser.add_argument("file", metavar="FILE", type=Path)
        parser.add_argument(
            "--keyspace",
            metavar="NAME",
            default="bus_cache_replay",
            help="default: %(default)s",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Replay."""
        with command.consumer_extra("replaying"):
            from consumers import recording, replay  # noqa: PLC0415 (an extra)
        if not names.KEYSPACE_PATTERN.match(parsed_args.keyspace):
            raise command.CommandError(f"{parsed_args.keyspace!a} can't be a keyspace")
        with self.index(check_schema=False) as index:
            there: Any = index.client
            prefix = names.Keys(parsed_args.keyspace).prefix
            if next(iter(there.scan_iter(match=f"{prefix}*", count=1000)), None) is not None:
                raise command.CommandError(
                    f"the keyspace {parsed_args.keyspace!r} in Redis at {index.where} is not empty"
                    " (bus-cache flush, with this keyspace in its configuration, empties it)"
                )
            try:
                with parsed_args.file.open("rb") as file:
                    counts = replay.replay(
                        recording.read(file), writer.Writer(index.client, parsed_args.keyspace)
                    )
            except OSError as error:
                raise command.CommandError(f"{parsed_args.file}: {error.strerror}") from None
            except recording.Unreadable as error:
                raise command.CommandError(f"{parsed_args.file}: {error}") from None
        self.app.stdout.write(_told(counts) + "\n")
        return 0


def _told(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts)
