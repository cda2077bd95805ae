"""The small model that this project ships: made, and its vision grounded."""
