"""What the parts cost, each beside its peer in one run: `make bench`. Here for tests/servers.py."""
