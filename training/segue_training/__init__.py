"""Train character-level recurrent language models and write them as checkpoints.

`vocabulary` and `normalization` need NumPy alone, so that a server can share them; the rest needs torch.
"""
