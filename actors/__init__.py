"""Ray actors: rollout engines, reference models and learner ranks. The only package that imports vLLM."""
