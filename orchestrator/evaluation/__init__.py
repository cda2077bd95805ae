"""Held-out tasks played and measured, and other models' predictions scored."""
