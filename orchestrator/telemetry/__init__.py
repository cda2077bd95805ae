"""The numbers of a run, for people and machines."""
