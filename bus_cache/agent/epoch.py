"""Epochs: a number that grows at each start of the agent and each hour, kept in a small file.

It is the time in milliseconds, unless the last one was not smaller: then that plus one. Where the
file is lost or can't be written, or says what consumers would refuse, the clock alone is used.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from bus_cache import protocol

LOG = logging.getLogger(__name__)


class Epochs:
    """The epochs of one host's agent."""

    def __init__(self, folder: Path, host: str) -> None:
        """Take the folder of the file; several hosts' agents may share it."""
        self._file = folder / f"epoch-{host.replace('/', '_')}"
        self._failure = ""

    def next(self, after: int = 0) -> int:
        """Return a larger one than ever before and than ``after``, and keep it; but never one that
        is later than any may be: what would lead there counts as lost."""
        now = time.time_ns() // 1_000_000
        latest = protocol.latest_epoch(now)
        epoch = max(now, *(last + 1 for last in (after, self._read()) if last < latest), 0)
        self._write(epoch)
        return epoch

    def _read(self) -> int:
        try:
            return int(self._file.read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            failure = f"{self._file} can't be read: {error}"
        self._say(failure)
        return 0

    def _write(self, epoch: int) -> None:
        beside = self._file.with_name(self._file.name + ".new")
        try:
            with open(beside, "w", encoding="ascii") as file:
                file.write(f"{epoch}\n")
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._file)
            return
        except OSError as error:
            failure = f"{self._file} can't be written: {error}"
        self._say(failure)

    def _say(self, failure: str) -> None:
        """Log the first failure; not while it is handled, or oslo.log adds it once more."""
        if not self._failure:
            LOG.warning(
                "%s; going on. Make the folder of [agent] state_path for this user: should this "
                "host's clock be set back while the agent is down, what it says would count only "
                "once a consumer has told it so",
                failure,
            )
        self._failure = failure
