"""The engine: cellular batching of sequences, without I/O, threads or clocks."""
