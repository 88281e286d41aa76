"""What parses what others wrote, fed with what nobody would write: see targets.py, __main__.py."""
