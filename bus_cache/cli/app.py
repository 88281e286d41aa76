"""The application: global options, the table of commands, help, errors as one sentence."""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import inspect
import itertools
import logging
import re
from typing import Any

import autopage.argparse
import cliff.app
import cliff.commandmanager
import cliff.help

import bus_cache

COMMANDS = {
    "image list": "bus_cache.cli.image:ImageList",
    "image show": "bus_cache.cli.image:ImageShow",
    "host list": "bus_cache.cli.host:HostList",
    "host show": "bus_cache.cli.host:HostShow",
    "explain": "bus_cache.cli.explain:Explain",
    "status": "bus_cache.cli.status:Status",
    "sync": "bus_cache.cli.sync:Sync",
    "flush": "bus_cache.cli.flush:Flush",
}

DESCRIPTION = "Shows what bus-cache knows: which compute hosts hold which image in their cache."

EPILOG = """\
examples:
  bus-cache status                           is all well, and how fresh is it?
  bus-cache image list --limit 20            the images that most hosts hold
  bus-cache image show IMAGE -f json         who holds this image, by what evidence, and when
  bus-cache host show HOST                   what this host holds
  bus-cache explain IMAGE                    which hosts the weigher would prefer, and why
  bus-cache sync --repair                    mend the index by what Nova's API says
  bus-cache help image show                  more about a command (also: image show --help)

exit codes:
  0  fine
  1  an error, told on stderr: an unknown image or host, Redis away, a wrong configuration
  2  wrong use: an unknown command or option, a name that can't be one
  3  bus-cache sync: the index and Nova differ, and were left so
"""


class Commands(cliff.commandmanager.CommandManager):
    """The commands, each imported when it is used.

    A table and no entry points: to scan those of a large environment takes longer than all else.
    """

    def load_commands(self, namespace: str) -> None:
        """Fill in :data:`COMMANDS`."""
        for name, target in COMMANDS.items():
            self.commands[name] = importlib.metadata.EntryPoint(name, target, namespace)


class Help(cliff.help.HelpCommand):
    """Show help for a command."""

    app: App

    def __init__(self, app: App, app_args: argparse.Namespace | None) -> None:
        """Leave the command's name away: cliff would scan for hooks of that name."""
        super().__init__(app, app_args)

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Print help for the command that is named, or for all."""
        if not parsed_args.cmd:
            self.app.print_help_for_all()
            return 0
        return super().take_action(parsed_args)


class App(cliff.app.App):
    """``bus-cache`` itself."""

    NAME = "bus-cache"
    LOG = logging.getLogger("bus_cache.cli")

    def __init__(self) -> None:
        """Set up the commands; nothing is read or sent yet."""
        super().__init__(
            DESCRIPTION, bus_cache.__version__, Commands("bus_cache.cli"), deferred_help=True
        )
        self.command_manager.add_command("help", Help)

    def build_option_parser(
        self,
        description: str | None,
        version: str | None,
        argparse_kwargs: dict[str, Any] | None = None,
    ) -> argparse.ArgumentParser:
        """Return a parser of the global options. They may stand before or after the command."""
        parser = autopage.argparse.ArgumentParser(
            prog=self.NAME,
            usage="%(prog)s [OPTIONS] COMMAND [ARGUMENTS]",
            description=description,
            epilog=EPILOG,
            formatter_class=autopage.argparse.RawDescriptionHelpFormatter,
            add_help=False,
            allow_abbrev=False,
            **(argparse_kwargs or {}),
        )
        parser.add_argument(
            "--config-file",
            action="append",
            metavar="FILE",
            help="a configuration file; may be given several times, the last word counts "
            "(default: /etc/bus_cache/bus_cache.conf where it exists)",
        )
        parser.add_argument(
            "--config-dir",
            action="append",
            metavar="DIR",
            help="a directory whose *.conf files are read after those",
        )
        parser.add_argument(
            "--debug", action="store_true", help="show the Python traceback of an error"
        )
        parser.add_argument("--version", action="version", version=f"{self.NAME} {version}")
        parser.add_argument(
            "-h", "--help", dest="deferred_help", action="store_true", help="show this help"
        )
        parser.set_defaults(verbose_level=self.DEFAULT_VERBOSE_LEVEL, log_file=None)
        return parser

    def configure_logging(self) -> None:
        """Let errors and warnings of ours go to stderr, and hide the libraries' log lines."""
        handler = logging.StreamHandler(self.stderr)
        handler.setFormatter(_Formatter(f"{self.NAME}: %(message)s"))
        self.LOG.handlers = [handler]
        self.LOG.propagate = False
        for library in (
            "amqp",
            "consumers",
            "keystoneauth",
            "kombu",
            "openstack",
            "oslo_messaging",
            "redis",
        ):
            logging.getLogger(library).addHandler(logging.NullHandler())

    def initialize_app(self, argv: list[str]) -> None:
        """Refuse a command line without a command; cliff would open a shell of its own."""
        if not argv and not self.options.deferred_help:
            self.parser.error("name a command; bus-cache --help shows them")

    def print_help_if_requested(self) -> None:
        """Answer ``bus-cache --help``."""
        if self.options.deferred_help:
            self.print_help_for_all()
            raise SystemExit(0)

    def print_help_for_all(self) -> None:
        """Print the global options and one line about each command."""
        lines = ["commands:"]
        for name, entry in sorted(self.command_manager):
            summary = (inspect.getdoc(entry.load()) or "").partition("\n")[0]
            lines.append(f"  {name:<12} {summary[:1].lower()}{summary[1:].rstrip('.')}")
        self.parser.epilog = "\n".join([*lines, "", EPILOG])
        with autopage.argparse.help_pager(self.stdout) as out:
            self.parser.print_help(out)

    def run_subcommand(self, argv: list[str]) -> int:
        """Run a command; of an unknown one, say which it may have meant."""
        try:
            self.command_manager.find_command(argv)
        except ValueError:
            words = " ".join(itertools.takewhile(lambda word: not word.startswith("-"), argv))
            close = [name for name in COMMANDS if name.startswith(words)]
            close = close or difflib.get_close_matches(words, COMMANDS)
            hint = f"did you mean: {', '.join(close)}?" if close else "see bus-cache --help"
            self.parser.error(f"there is no command {words!r}; {hint}")
        return super().run_subcommand(argv)


class _Formatter(logging.Formatter):
    """Takes credentials out of what is logged, wherever in an error they come from."""

    def format(self, record: logging.LogRecord) -> str:
        return without_credentials(super().format(record))


def without_credentials(text: str) -> str:
    """Return a text without what is before the ``@`` of a URL or after ``password=``."""
    return re.sub(r"(password=)[^,)\s]+", r"\1***", re.sub(r"//\S*@", "//", text))
