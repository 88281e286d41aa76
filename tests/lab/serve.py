"""Serves an OpenStack WSGI application on a loopback port: ``python -m tests.lab.serve MODULE:NAME
PORT THREADS``."""

import importlib
import sys

import waitress


def main() -> None:
    module, _, name = sys.argv[1].partition(":")
    port, threads = int(sys.argv[2]), int(sys.argv[3])
    del sys.argv[1:]  # the application's oslo.config must not take our arguments for its own
    application = getattr(importlib.import_module(module), name)
    waitress.serve(application, host="127.0.0.1", port=port, threads=threads, channel_timeout=600)


if __name__ == "__main__":
    main()
