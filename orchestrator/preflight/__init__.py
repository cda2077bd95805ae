"""Everything that would stop a run, found before any of it starts."""
