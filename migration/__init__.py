"""A configuration of the published system becomes one of ours."""
