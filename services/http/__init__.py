"""What every service with an HTTP door shares."""
