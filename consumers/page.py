"""The page to look at: what a consumer knows, as one HTML file that asks for JSON now and then."""

from __future__ import annotations

import base64
import collections
import hashlib
import importlib.resources
import json
import logging as standard_logging
import re
import threading
import time
from collections.abc import Sequence
from typing import Any

import bus_cache
from bus_cache.web.server import Answer
from consumers.consumer import Consumer
from consumers.measures import SIZE_CLASSES
from consumers.survey import AGES, Survey, Surveyor

STEP = 10.0
"""Seconds between two points of the curves."""

POINTS = 361
"""Points that are kept: an hour."""

MOST = 1000
"""Characters of a line."""

LINES = 20
"""Lines of the log that are kept: of warnings and errors, the newest."""


class LastLines(standard_logging.Handler):
    """Keeps the newest warnings and errors of the log: the same text, so without passwords."""

    def __init__(self) -> None:
        """Keep none yet."""
        super().__init__(standard_logging.WARNING)
        self.lines: collections.deque[tuple[float, str, str]] = collections.deque(maxlen=LINES)

    def emit(self, record: standard_logging.LogRecord) -> None:
        """Keep a line."""
        try:
            text = " ".join(record.getMessage().split())[:MOST]
            text = "".join(c if c.isprintable() else "?" for c in text)
            self.lines.append((record.created, record.levelname, text))
        except Exception:  # a line that can't be made is told by who writes the log
            self.handleError(record)


class Page:
    """Answers ``/`` and ``/state.json``."""

    def __init__(self, consumers: Sequence[Consumer], surveyor: Surveyor, keyspace: str) -> None:
        """Take what is shown."""
        self._consumers = consumers
        self._surveyor = surveyor
        self._keyspace = keyspace
        self._log = LastLines()
        self._points: collections.deque[list[float]] = collections.deque(maxlen=POINTS)
        self._stop = threading.Event()
        self._html = _html()

    def start(self) -> None:
        """Keep the log's last lines, and points of the curves, until :meth:`stop`."""
        standard_logging.getLogger().addHandler(self._log)
        threading.Thread(target=self._run, name="page", daemon=True).start()

    def stop(self) -> None:
        """Keep no more. From any thread."""
        self._stop.set()
        standard_logging.getLogger().removeHandler(self._log)

    def html(self) -> Answer:
        """Answer ``/``."""
        return self._html

    def state(self) -> Answer:
        """Answer ``/state.json``: all that the page shows."""
        body = json.dumps(self._state(), separators=(",", ":")).encode()
        return Answer(200, "application/json", body)

    def _run(self) -> None:
        while not self._stop.is_set():
            boots = self._boots()
            counts = [each.counts for each in self._consumers]
            received = sum(each["received"] for each in counts)
            applied = sum(each["applied"] for each in counts)
            found = sum(yes for _, yes, _ in boots)
            begun = sum(yes + no for _, yes, no in boots)
            self._points.append([time.time(), received, applied, found, begun])
            self._stop.wait(STEP)

    def _boots(self) -> list[tuple[str, int, int]]:
        """Return for each size class how many boots found their image, and how many did not."""
        found = []
        for size in SIZE_CLASSES:
            counts = [each.measures.boots.counts for each in self._consumers]
            yes = sum(each[size, True] for each in counts)
            found.append((size, yes, sum(each[size, False] for each in counts)))
        return found

    def _state(self) -> dict[str, Any]:
        survey = self._surveyor.look()
        return {
            "version": bus_cache.__version__,
            "keyspace": self._keyspace,
            "now": time.time(),
            "buses": [_bus(each) for each in self._consumers],
            "boots": self._boots(),
            "points": list(self._points),
            "log": list(self._log.lines),
            "survey": None if survey is None else _survey(survey),
        }


def _bus(consumer: Consumer) -> dict[str, Any]:
    counts = consumer.counts
    return {
        "bus": consumer.bus,
        "away": consumer.waits_for,
        "waiting": consumer.measures.depths,
        "counts": {
            name: counts[name]
            for name in ("received", "irrelevant", "malformed", "applied", "refused", "dropped")
        },
    }


def _survey(survey: Survey) -> dict[str, Any]:
    counts, heat = survey.counts, survey.heat
    found: dict[str, Any] = {
        "at": survey.at,
        "images": counts.images,
        "held": counts.held,
        "hosts": counts.hosts,
        "memberships": counts.memberships,
        "by_agent": counts.by_agent,
        "silent": counts.silent,
        "gaps": counts.gaps,
        "full": counts.full,
        "ages": list(zip([name for _, name in AGES] + ["older"], survey.ages, strict=True)),
        "heat": None,
    }
    if heat is not None:
        found["heat"] = {
            "images": [[each.name, each.size, each.hosts] for each in heat.images],
            "columns": heat.columns,
            "cells": heat.cells,
        }
    return found


def _html() -> Answer:
    """Return the file, with a header that lets nothing but its own script and style run: names on
    the page were made by whoever may publish."""
    text = (importlib.resources.files("consumers") / "page.html").read_text("utf-8")
    allowed = {}
    for kind in ("script", "style"):
        found = re.search(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        assert found is not None
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        allowed[kind] = f"{kind}-src 'sha256-{digest}'"
    policy = f"default-src 'none'; connect-src 'self'; {allowed['script']}; {allowed['style']}"
    headers = (("Content-Security-Policy", f"{policy}; frame-ancestors 'none'"),)
    return Answer(200, "text/html; charset=utf-8", text.encode(), headers)
