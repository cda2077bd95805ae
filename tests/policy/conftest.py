"""Small networks are fastest on one thread, and spinning threads of several processes cost a multiple of it."""

import torch

torch.set_num_threads(1)
