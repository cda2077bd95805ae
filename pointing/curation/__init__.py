"""What is done with whole data files before a model sees them: checked, counted, split, looked at, rewritten."""
