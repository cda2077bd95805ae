"""The driver's side of every role: where it is placed, what to call, what comes back."""
