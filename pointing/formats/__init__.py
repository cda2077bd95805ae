"""Data of other tools, read as tasks and written from them: one file a format."""
