"""A trace: who asked for which servers when. CSV, a header and a line per request, gzipped or not.

Columns, in any order: ``time_s,lifetime_s,image,image_bytes,vcpus,ram_mb,disk_gb,count``.

- ``time_s``: seconds since the trace's begin; lines may stand in any order.
- ``lifetime_s``: seconds from ACTIVE to deletion; empty or NULL: the server stays.
- ``image``: any name; ``image_bytes``: its size in Glance. A name with another size is another
  image: in Glance, too, a new version has an id of its own.
- ``vcpus``, ``ram_mb``, ``disk_gb``: the flavor's. ``count``: servers asked for in one request.

Whole numbers may be written as ``4.0``: so a column with gaps comes out of some tools.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import math
import pathlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

COLUMNS = "time_s", "lifetime_s", "image", "image_bytes", "vcpus", "ram_mb", "disk_gb", "count"

BURST_SERVERS = 20
"""So many servers of one image at once are a burst."""

_MOST = 1e15
"""Of any number: a petabyte, and far more of all else than a cloud has."""

_LATEST_BEGIN = 86400.0
"""Seconds: a trace whose first request is later, or before 0, has its clock begin elsewhere (with
the epoch, say). Its time is counted from its first request: a cloud is not run empty for years."""

_LONGEST = 3 * 365 * 86400.0
"""Seconds: what is longer has a wrong time in it, such as one 0 among times of the epoch."""

_BURST_GAP = 10.0
"""Seconds: requests for one image that follow each other no later than this belong together."""

_LONGEST_BURST = 60.0
"""Seconds from its first request to its last: steady requests for one image are no burst."""

_NONE = "", "NULL", "\\N"
"""An empty field, as databases' clients write it, too."""


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One line."""

    time_s: float
    lifetime_s: float | None
    image: str
    image_bytes: int
    vcpus: int
    ram_mb: int
    disk_gb: int
    count: int


class TraceError(ValueError):
    """What is wrong with a trace, in one sentence."""


def read(path: pathlib.Path) -> list[Request]:
    """Return a file's requests in order of time; gzipped where it begins so, whatever its name.

    :raises TraceError: the file can't be read or is no trace; the first fault is named.
    """
    try:
        with path.open("rb") as raw:  # once: it may be a pipe
            zipped = raw.peek(2)[:2] == b"\x1f\x8b"
            plain = gzip.GzipFile(fileobj=raw) if zipped else raw
            lines = io.TextIOWrapper(plain, encoding="utf-8-sig", newline="")
            requests = sorted(_requests(path, lines), key=lambda each: each.time_s)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: it is no text in UTF-8: {error}") from error
    except (EOFError, zlib.error, csv.Error) as error:
        raise TraceError(f"{path}: {error}") from error
    first, last = requests[0].time_s, requests[-1].time_s
    if last - first > _LONGEST:
        days = (last - first) / 86400
        raise TraceError(f"{path}: from its first request to its last it is {days:.0f} days")
    if 0 <= first <= _LATEST_BEGIN:
        return requests
    return [dataclasses.replace(each, time_s=each.time_s - first) for each in requests]


def write(path: pathlib.Path, requests: Iterable[Request]) -> None:
    """Write a trace; gzipped, and the same bytes each time, where the name ends with ``.gz``."""
    lines = [",".join(COLUMNS)]
    for request in requests:
        values = (getattr(request, name) for name in COLUMNS)
        lines.append(",".join("" if value is None else str(value) for value in values))
    text = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def bursts(requests: Sequence[Request]) -> list[int | None]:
    """Return for each request the number of the burst that it belongs to, or None.

    A burst is what asks for one image within a minute, never 10 s without a request, and for 20
    servers in all.
    """
    groups: list[list[int]] = []
    newest: dict[str, int] = {}
    for index, request in enumerate(requests):
        group = newest.get(request.image)
        if (
            group is None
            or request.time_s - requests[groups[group][-1]].time_s > _BURST_GAP
            or request.time_s - requests[groups[group][0]].time_s > _LONGEST_BURST
        ):
            newest[request.image] = group = len(groups)
            groups.append([])
        groups[group].append(index)
    found: list[int | None] = [None] * len(requests)
    for number, members in enumerate(groups):
        if sum(requests[index].count for index in members) >= BURST_SERVERS:
            for index in members:
                found[index] = number
    return found


def _requests(path: pathlib.Path, lines: TextIO) -> Iterator[Request]:
    rows = csv.DictReader(lines)
    head = list(rows.fieldnames or ())
    if missing := [name for name in COLUMNS if name not in head]:
        raise TraceError(
            f"{path}: the first line must name the columns, with commas between: it lacks "
            f"{', '.join(missing)}; it is {','.join(head)[:120]!r}"
        )
    if twice := [name for name in COLUMNS if head.count(name) > 1]:
        raise TraceError(f"{path}: the first line names {', '.join(twice)} twice")
    sizes: dict[str, int] = {}
    request = None
    for row in rows:
        try:
            if None in row:
                raise ValueError("it has more fields than the first line has columns")
            request = _request(row)
        except (ValueError, TypeError) as error:
            raise TraceError(f"{path}, line {rows.line_num}: {error}") from error
        if sizes.setdefault(request.image, request.image_bytes) != request.image_bytes:
            version = f"{request.image} of {request.image_bytes} bytes"
            request = dataclasses.replace(request, image=version)
        yield request
    if request is None:
        raise TraceError(f"{path}: there is no request in it")


def _request(row: Mapping[str | Any, Any]) -> Request:
    """:raises ValueError: a value that is none or makes no sense."""

    def number(name: str, least: float, *, whole: bool = True) -> float:
        text = (row[name] or "").strip()
        kind = "whole number" if whole else "number"
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (whole and not value.is_integer()):
            raise ValueError(f"{name} is {text!r}, which is no {kind}")
        if value > _MOST:
            raise ValueError(f"{name} is {text}; the most is {_MOST:g}")
        if value < least:
            raise ValueError(f"{name} is {text}; the least is {least:g}")
        return value

    image = (row["image"] or "").strip()
    if not image:
        raise ValueError("image is empty")
    stays = (row["lifetime_s"] or "").strip() in _NONE
    return Request(
        time_s=number("time_s", -math.inf, whole=False),
        lifetime_s=None if stays else number("lifetime_s", 0, whole=False),
        image=image,
        image_bytes=max(1, int(number("image_bytes", 0))),
        vcpus=int(number("vcpus", 1)),
        ram_mb=int(number("ram_mb", 1)),
        disk_gb=int(number("disk_gb", 0)),
        count=int(number("count", 1)),
    )
