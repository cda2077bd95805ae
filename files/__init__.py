"""What is written to disk: whole or not at all, and only over what is known to be ours. Standard library only."""
