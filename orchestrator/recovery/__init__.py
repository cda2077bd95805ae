"""What happens when a part of a run dies, or the run is told to stop."""
