"""The program ``bus-cache``: starts the command line, or says what it lacks."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; it never raises ``SystemExit``."""
    try:
        from bus_cache.cli.app import App  # noqa: PLC0415 (an extra: Nova's hosts need no command line)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("autopage", "cliff", "stevedore"):
            raise
        print("bus-cache: the command line needs pip install 'bus-cache[cli]'", file=sys.stderr)
        return 1
    try:
        code = App().run(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as exit_:  # argparse's: --help, --version, wrong use
        code = exit_.code if isinstance(exit_.code, int) else 0
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # such as `bus-cache image list | head`: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return code
