"""Where weights and optimiser lie, on ranks and on disk."""
