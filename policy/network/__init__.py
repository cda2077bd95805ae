"""A checkpoint as a network, and rows of ids as its log-probabilities."""
