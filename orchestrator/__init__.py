"""The driver: what runs in it, room by room; see docs/architecture.md."""
