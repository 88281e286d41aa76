"""What the commands share: the index that the configuration names, opened and checked; errors."""

from __future__ import annotations

import argparse
import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import cliff.command
import cliff.lister
import cliff.show
from oslo_config import cfg

from bus_cache import conf as configuration
from bus_cache import connect, names
from bus_cache.cli import output
from bus_cache.conf import common, opts
from bus_cache.index import listing, writer

if TYPE_CHECKING:
    import stevedore

    from bus_cache.cli.app import App

_COMPLAINTS_SHOWN = 5


class CommandError(Exception):
    """A command can't do what it should; the text says why, in one sentence."""


@contextlib.contextmanager
def consumer_extra(what: str) -> Iterator[None]:
    """Import in the ``with`` block what comes with the extra ``consumer``.

    :param what: needs it, for people.
    :raises CommandError: it is not installed.
    """
    try:
        with warnings.catch_warnings():  # oslo.messaging's imports speak of eventlet
            warnings.simplefilter("ignore")
            yield
    except ModuleNotFoundError as error:
        raise CommandError(
            f"{what} needs pip install 'bus-cache[consumer]' ({error.name} is missing)"
        ) from None


class Index(NamedTuple):
    """The index that the configuration names."""

    conf: cfg.ConfigOpts
    client: connect.Client
    keyspace: str
    where: str
    listing: listing.Listing


class Command(cliff.command.Command):
    """A command of ours. Its docstring is its help, as it is written: one line, then more."""

    app: App
    examples: ClassVar[str] = ""

    def __init__(self, app: App, app_args: argparse.Namespace | None) -> None:
        """Leave the command's name away: cliff would scan for hooks of that name."""
        super().__init__(app, app_args)

    def get_epilog(self) -> str:
        """Return the examples. cliff's own looks up which distribution every module is from."""
        return self.examples

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser; help keeps its lines as they are written."""
        parser = super().get_parser(prog_name)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        return parser

    @contextlib.contextmanager
    def index(self, *, check_schema: bool = True) -> Iterator[Index]:
        """Open the index; whatever Redis does wrong in the ``with`` block is one sentence.

        :raises CommandError: Redis can't be used, or the schema is not ours.
        :raises bus_cache.conf.ConfigurationError: an option can't be used.
        """
        conf = configuration.load(self.app.NAME, self.config_arguments(), opts.CONSUMER_GROUPS)
        group = conf[common.GROUP]
        where = str(connect.parse(group.redis_url))
        complaints = _Complaints(self.app)
        try:
            client = configuration.redis_client(conf, client_name="bus-cache-cli")
            try:
                if check_schema:
                    writer.Writer(client, group.keyspace).check()
                yield Index(
                    conf,
                    client,
                    group.keyspace,
                    where,
                    listing.Listing(client, group.keyspace, complaints),
                )
            finally:
                client.close()
        except (*connect.AWAY, writer.Unavailable) as error:
            reason = connect.explain(error)
            raise CommandError(f"Redis at {where} can't be used: {reason}") from error
        finally:
            complaints.close()

    def hint_if_empty(self, found: Any, index: Index) -> None:
        """Say on stderr that nothing is there: often it is the keyspace that is mistyped."""
        if not found:
            self.app.LOG.warning(
                "the keyspace %r in Redis at %s has nothing to list", index.keyspace, index.where
            )

    def config_arguments(self) -> list[str]:
        """Return the arguments of the command line that name configuration files."""
        options = self.app.options
        return [f"--config-file={name}" for name in options.config_file or ()] + [
            f"--config-dir={name}" for name in options.config_dir or ()
        ]


class _Complaints:
    """Tells of broken values on stderr: the first few, then how many more."""

    def __init__(self, app: App) -> None:
        self._log = app.LOG
        self._count = 0

    def __call__(self, text: str) -> None:
        self._count += 1
        if self._count <= _COMPLAINTS_SHOWN:
            self._log.warning("%s", text)

    def close(self) -> None:
        if self._count > _COMPLAINTS_SHOWN:
            self._log.warning("and %d more like these", self._count - _COMPLAINTS_SHOWN)


class List(Command, cliff.lister.Lister):
    """A command that lists rows."""

    def _load_formatter_plugins(self) -> stevedore.ExtensionManager[Any]:
        return output.formatters()


class Show(Command, cliff.show.ShowOne):
    """A command that shows one object."""

    def _load_formatter_plugins(self) -> stevedore.ExtensionManager[Any]:
        return output.formatters()


def name(text: str) -> str:
    """An argparse type: what can be a host's name or an image's id."""
    if not names.is_valid_name(text):
        raise argparse.ArgumentTypeError(
            f"{ascii(text)[:80]} can't be a name: 1 to 255 printable ASCII characters, no spaces"
        )
    return text


def positive(text: str) -> int:
    """An argparse type: a number above 0."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)
