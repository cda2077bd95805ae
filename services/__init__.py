"""Ray Serve applications and their clients: the reward service (a deployment handle and HTTP)."""
