"""Whether CUDA can run and capture graphs, judged without a GPU."""
