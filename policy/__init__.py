"""The trained network: conversations as ids, batches as tensors, log-probabilities, optimiser steps, checkpoints.

    conversation  text and images --> ids, in a ledger ==table==.
    network                                   collate --> forward '--> learning --> optimiser steps
    state                                                  sharding, checkpoint, export ---^

Imports torch, transformers and peft; never Ray or vLLM.
"""
