"""The tests' matrices are small: one thread is quicker, and much quicker where other work shares the cores."""

import torch

torch.set_num_threads(1)
