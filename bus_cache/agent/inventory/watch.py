"""Watches one folder with inotify, through its absence, deletion and recreation.

inotify watches what is at a path now, not the path. So every folder above is watched, too, for the
next one's coming and going; after such a change all watches are set anew. What inotify can't
tell (a file system mounted over the folder, folders above that may not be read) is found when the
watches are set anew at an interval.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path

from inotify_simple import INotify, flags

LOG = logging.getLogger(__name__)

AGAIN = 60.0
"""Seconds between settings of the watches where nothing happens."""

_GONE = flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT | flags.IGNORED
_ENTRIES = flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO
_MASK = _ENTRIES | flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR

_LIMITS = {
    errno.EMFILE: "fs.inotify.max_user_instances",
    errno.ENOSPC: "fs.inotify.max_user_watches",
}


class Watch:
    """Calls ``changed`` from a thread of its own: a name in the folder, or None for any change."""

    def __init__(self, folder: Path, changed: Callable[[str | None], None]) -> None:
        """Begin to watch; where that is impossible, say so once and never call."""
        self._folder = Path(os.path.abspath(folder))
        self._changed = changed
        self._watched: dict[int, str] = {}  # watch -> name of the next folder, '' for the last
        self._said: set[str] = set()
        self._stop, self._stopped = os.pipe()
        try:
            self._inotify = INotify()
        except OSError as error:
            self._say(error)
            return
        self._set()
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def close(self) -> None:
        """Stop watching."""
        os.close(self._stopped)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._inotify, select.POLLIN)
        poll.register(self._stop, select.POLLHUP)
        with self._inotify:
            again = time.monotonic() + AGAIN
            while True:
                left = max(0.0, again - time.monotonic())
                if self._stop in [fd for fd, _ in poll.poll(left * 1000)]:
                    break
                self._read()
                if time.monotonic() >= again:
                    self._set_anew()
                    again = time.monotonic() + AGAIN
        os.close(self._stop)

    def _read(self) -> None:
        anew = False
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                LOG.warning("%s: more changes than inotify can queue; listing all", self._folder)
                self._changed(None)
                continue
            following = self._watched.get(event.wd)
            if following is None:  # of a watch that is no more
                continue
            if event.mask & _GONE:
                anew = True
            elif following:
                anew = anew or event.name == following
            else:
                self._changed(event.name)
        if anew:
            self._set_anew(changed=True)

    def _set_anew(self, changed: bool = False) -> None:
        before = set(self._watched)
        self._set()
        for gone in before - set(self._watched):
            try:
                self._inotify.rm_watch(gone)
            except OSError:  # it went with its folder
                pass
        if changed or set(self._watched) != before:
            self._changed(None)

    def _set(self) -> None:
        """Watch each folder of the path, from above: what comes later is seen by the one above."""
        watched: dict[int, str] = {}
        path = [*reversed(self._folder.parents), self._folder]
        for folder, following in zip(path, [*(each.name for each in path[1:]), ""], strict=True):
            try:
                watched[self._inotify.add_watch(folder, _MASK)] = following
            except FileNotFoundError:
                break
            except NotADirectoryError:
                break
            except OSError as error:
                if following and error.errno == errno.EACCES:
                    continue  # may be entered, not read
                self._say(error)
        self._watched = watched

    def _say(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        if reason not in self._said:
            self._said.add(reason)
            limit = _LIMITS.get(error.errno or 0)
            LOG.warning(
                "%s can't be watched: %s%s. It is listed at each scan_interval",
                self._folder,
                reason,
                f" (sysctl {limit})" if limit else "",
            )
