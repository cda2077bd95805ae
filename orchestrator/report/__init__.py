"""A run, and runs side by side, as a page of HTML that needs nothing but itself."""
