"""The mathematics of the update: advantages, adaptive weights, losses, KL and how a loss is averaged.

Pure functions of torch tensors; nothing else of this repository is imported. One representation throughout: sequences
are padded to [B, T] and come with a mask [B, T] that is 1 on exactly the tokens the policy sampled. The mask may have
holes (tool observations) and padding may hold anything, NaN included: it is never read.
"""
