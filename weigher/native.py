"""What a process has for itself, whatever its threads are: native ones, or green ones of eventlet.

Native and green threads share no lock or queue that both could wait for. A native lock is safe for
both where nothing is waited for while it is held.
"""

from __future__ import annotations

import os
import sys
import weakref
from typing import Any


def module(name: str) -> Any:
    """Return a module of the standard library as it was before eventlet's monkey patching.

    Looks for eventlet where it is loaded already: it is not ours to import.
    """
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("thread"):
        return patcher.original(name)
    return __import__(name)


class PerProcess:
    """Begins anew in each forked process: the parent's threads are not there, and its locks may be
    held for ever."""

    def __init__(self) -> None:
        self.begin()
        _all.add(self)

    def begin(self) -> None:
        """Forget all, and make locks; to be extended."""
        self._lock = module("threading").Lock()


_all: weakref.WeakSet[PerProcess] = weakref.WeakSet()


def _after_fork() -> None:
    for each in list(_all):
        each.begin()


os.register_at_fork(after_in_child=_after_fork)
