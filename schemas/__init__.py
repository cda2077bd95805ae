"""What crosses a process or a user: configuration, tasks, trajectories, Arrow tables and the HTTP contract.

Imports pydantic, PyYAML and pyarrow only.
"""
