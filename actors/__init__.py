"""Ray actors: rollout engines, reference models and learner ranks. The only place that imports vLLM (engine.py)."""
