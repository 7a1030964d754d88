"""Whether an exported model computes what the trained one does."""
