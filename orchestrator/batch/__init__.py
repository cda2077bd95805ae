"""From tasks to what the learner is given, and where the run stands in its data."""
