"""The lab from the command line: ``python -m tests.lab up | down | record``.

``up`` stays in the foreground until Ctrl-C (or ``down`` from elsewhere) ends it; end it and all of
its processes end. The cloud's credentials for the ``openstack`` client are in ``build/lab/openrc``.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from tests.lab import record
from tests.lab.configuration import NovaOptions
from tests.lab.plane import PROJECT, ControlPlane, LabError
from tests.servers import ServerError, process_gone

DIRECTORY = PROJECT / "build" / "lab"
DATA = PROJECT / "tests" / "data"


def parser() -> argparse.ArgumentParser:
    main_parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    main_parser.add_argument(
        "--directory", type=Path, default=DIRECTORY, help="where it lives, emptied at the start"
    )
    commands = main_parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring a control plane up and keep it until Ctrl-C")
    up.add_argument("--weigher", action="store_true", help="add bus-cache's weigher to Nova's")
    commands.add_parser("down", help="end a control plane that `up` holds up")
    recording = commands.add_parser("record", help="record every operation's notifications")
    recording.add_argument("name", help="of the recording, as in tests/data/NAME.jsonl.gz")
    for command in (up, recording):
        command.add_argument("--computes", type=int, default=6, help="number of compute hosts")
        command.add_argument(
            "--real-computes", type=int, default=0, help="how many with real guests"
        )
        command.add_argument(
            "--notification-format", default="both", choices=("both", "unversioned", "versioned")
        )
        command.add_argument(
            "--notify-on-state-change", choices=("vm_state", "vm_and_task_state"), help="or unset"
        )
    return main_parser


def plane_of(arguments: argparse.Namespace) -> ControlPlane:
    options = NovaOptions(
        notification_format=arguments.notification_format,
        notify_on_state_change=arguments.notify_on_state_change,
        weigher=getattr(arguments, "weigher", False),
    )
    return ControlPlane(arguments.directory, arguments.computes, options, arguments.real_computes)


def pid_file(arguments: argparse.Namespace) -> Path:
    """Who holds the lab of a directory up; beside it, as the directory is emptied at the start."""
    directory: Path = arguments.directory
    return directory.with_suffix(".pid")


def up(arguments: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # down does what Ctrl-C does
    pid_file(arguments).parent.mkdir(parents=True, exist_ok=True)
    pid_file(arguments).write_text(str(os.getpid()))
    try:
        with plane_of(arguments) as plane:
            print(f"message bus   {plane.addresses.transport}")
            print(f"Redis         {plane.addresses.redis}")
            print(f"Keystone      {plane.addresses.urls['keystone']}")
            print(f"credentials   {arguments.directory / 'openrc'}")
            print(f"bus-cache     {plane.bus_cache_config}")
            print("Ctrl-C ends it.", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("down", flush=True)
    finally:
        pid_file(arguments).unlink()


def down(arguments: argparse.Namespace) -> None:
    path = pid_file(arguments)
    pid = int(path.read_text()) if path.exists() else 0
    if not pid or process_gone(pid):
        print(f"no lab is up in {arguments.directory}")
    elif b"tests.lab" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        print(f"{path} names a process that is none of ours")
    else:
        os.kill(pid, signal.SIGTERM)
        while not process_gone(pid):
            time.sleep(0.2)


def record_all(arguments: argparse.Namespace) -> None:
    with plane_of(arguments) as plane:
        messages, tables = record.record(plane)
    path = DATA / f"{arguments.name}.jsonl.gz"
    record.write(path, messages)
    record.write_truth(DATA / "nova-34-truth.json", arguments.name, tables)
    print(f"{path}: {len(messages)} messages, {path.stat().st_size} bytes")


def main() -> None:
    arguments = parser().parse_args()
    command = {"up": up, "down": down, "record": record_all}[arguments.command]
    try:
        command(arguments)
    except (LabError, ServerError) as error:
        sys.exit(f"lab: {error}")


if __name__ == "__main__":
    main()
