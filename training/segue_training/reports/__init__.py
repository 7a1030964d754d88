"""What a run shows: console, summary, HTML, TensorBoard."""
