"""How answers are written: table, json, yaml, csv and value; sizes, times and lists within them."""

from __future__ import annotations

import argparse
import csv
import datetime
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO, cast

import stevedore
import stevedore.extension
from cliff.columns import FormattableColumn
from cliff.formatters.base import ListFormatter, SingleFormatter
from cliff.formatters.json_format import JSONFormatter
from cliff.formatters.table import TableFormatter
from cliff.formatters.value import ValueFormatter
from cliff.formatters.yaml_format import YAMLFormatter

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


@functools.total_ordering
class Column(FormattableColumn):  # type: ignore[type-arg]  # no generic in older cliff
    """A value that people and programs read in different forms. None is unknown: ``-``, or null."""

    def __lt__(self, other: object) -> bool:
        """Compare for ``--sort-column``; what is unknown comes first."""
        if not isinstance(other, Column):
            return NotImplemented
        return (self._value is not None, self._value or 0) < (
            other._value is not None,
            other._value or 0,
        )

    __hash__ = None  # type: ignore[assignment]

    def human_readable(self) -> str:
        """Return the value for a table."""
        return "-" if self._value is None else self._shown()

    def _shown(self) -> str:
        return str(self._value)


class Size(Column):
    """A size: binary units for people, bytes for programs."""

    def _shown(self) -> str:
        size, unit = float(self._value), "B"
        for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
            if size < 1024:
                break
            size, unit = size / 1024, larger
        return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"


class Time(Column):
    """A stamp in milliseconds: UTC in ISO 8601, to the second for people."""

    def _shown(self) -> str:
        return self._iso("seconds")

    def machine_readable(self) -> str | None:
        """Return the time to the millisecond."""
        return None if self._value is None else self._iso("milliseconds")

    def _iso(self, precision: str) -> str:
        moment = _EPOCH + datetime.timedelta(milliseconds=self._value)
        return moment.isoformat(timespec=precision).replace("+00:00", "Z")


class Age(Column):
    """Seconds since something happened; less than none where the clocks disagree."""

    def _shown(self) -> str:
        seconds = abs(round(self._value))
        text = f"{seconds} s"
        for unit, length in (("min", 60), ("h", 3600), ("d", 86400)):
            if seconds >= 2 * length:
                text = f"{seconds // length} {unit}"
        return f"{text} ahead of this host's clock" if self._value < -1 else text


class Rows(Column):
    """A list within an answer: a small table for people, a list of objects for programs."""

    def __init__(self, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Take the names of the columns and the values of each row."""
        self.names = tuple(names)
        super().__init__([tuple(row) for row in rows])

    def _shown(self) -> str:
        if not self._value:
            return "none"
        lines = [self.names, *(tuple(map(_for_people, row)) for row in self._value)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)

    def machine_readable(self) -> list[dict[str, Any]]:
        """Return one object for each row."""
        return [dict(zip(self.names, map(_for_programs, row), strict=True)) for row in self._value]

    def lines(self) -> Iterator[str]:
        """Yield one line of plain values for each row."""
        for row in self.machine_readable():
            yield " ".join(map(str, row.values()))


def _for_people(value: Any) -> str:
    column = value if isinstance(value, FormattableColumn) else Column(value)
    return str(column.human_readable())


def _for_programs(value: Any) -> Any:
    return value.machine_readable() if isinstance(value, FormattableColumn) else value


class CsvFormatter(ListFormatter, SingleFormatter):
    """Comma-separated values: a line of names, then one for each row; nothing for what is unknown.

    One object becomes one line. Lists within it become one line for each of their rows, with
    the object's other values repeated: what a spreadsheet can sort and filter.
    """

    def add_argument_group(self, parser: argparse.ArgumentParser) -> None:
        """Add nothing: there is one form."""

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Write a list."""
        writer = csv.writer(stdout, lineterminator="\n")
        writer.writerow(column_names)
        for row in data:
            writer.writerow([_for_programs(value) for value in row])

    def emit_one(
        self,
        column_names: Sequence[str],
        data: Sequence[Any],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Write one object."""
        plain: dict[str, Any] = {}
        rows: list[Mapping[str, Any]] = []
        inner: list[str] = []
        for name, value in zip(column_names, data, strict=True):
            if isinstance(value, Rows):
                rows += value.machine_readable()
                inner += value.names
            else:
                plain[name] = _for_programs(value)
        rows = rows or [{}]
        names = list(dict.fromkeys([*plain, *inner]))
        self.emit_list(
            names,
            ([{**plain, **row}.get(name) for name in names] for row in rows),
            stdout,
            parsed_args,
        )


class PlainFormatter(ValueFormatter):
    """Values alone, one on each line; a list within an object has one line for each of its rows."""

    def emit_one(
        self,
        column_names: Sequence[str],
        data: Sequence[Any],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Write one object."""
        for value in data:
            lines = value.lines() if isinstance(value, Rows) else [str(_for_programs(value))]
            stdout.writelines(f"{line}\n" for line in lines)


def formatters() -> stevedore.ExtensionManager[Any]:
    """Return the formats, as cliff wants them: the same for a list and for one object.

    In code: cliff would scan the entry points of the whole environment for them.
    """
    classes: dict[str, Any] = {
        "csv": CsvFormatter,
        "json": JSONFormatter,
        "table": TableFormatter,
        "value": PlainFormatter,
        "yaml": YAMLFormatter,
    }
    found: list[Any] = [
        stevedore.extension.Extension(name, cast(Any, None), formatter, formatter())
        for name, formatter in classes.items()
    ]
    manager: Any = stevedore.ExtensionManager
    return cast("stevedore.ExtensionManager[Any]", manager.make_test_instance(found))
