"""pytest in a process that starts as nova-scheduler does: ``python -m tests.releases.patched``."""

import nova.cmd.scheduler  # noqa: F401, I001  # first of all: it patches, as its release does

import sys

import pytest

if __name__ == "__main__":
    sys.exit(pytest.main(sys.argv[1:]))
