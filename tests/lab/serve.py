"""Serves an OpenStack WSGI application on a loopback port: ``python -m tests.lab.serve MODULE:NAME
PORT THREADS``.

Its log has a line for each answer, with the bytes that were announced, as a web server before it
would write.
"""

import importlib
import sys

import waitress
from paste.translogger import TransLogger


def main() -> None:
    module, _, name = sys.argv[1].partition(":")
    port, threads = int(sys.argv[2]), int(sys.argv[3])
    del sys.argv[1:]  # the application's oslo.config must not take our arguments for its own
    application = TransLogger(
        getattr(importlib.import_module(module), name), setup_console_handler=False
    )
    waitress.serve(application, host="127.0.0.1", port=port, threads=threads, channel_timeout=600)


if __name__ == "__main__":
    main()
