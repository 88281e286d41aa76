"""Real processes, faults of every kind, and a truth kept beside them: see docs/faults.md."""
