"""Train character-level recurrent language models and write them as checkpoints.

`text` needs only NumPy, so that the server can share it; most of the rest needs torch.
"""
