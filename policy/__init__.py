"""The trained network: conversations as ids, batches as tensors, log-probabilities, optimiser steps, checkpoints.

    text --turns--> ids --conversation--> ledger ==table==> collate --> forward --> objective --> learner
                                              model, vision, positions ---^        sharding, checkpoint ---^

Imports torch, transformers and peft; never Ray or vLLM.
"""
