"""The reward service: one scoring core, a deployment handle and HTTP."""
