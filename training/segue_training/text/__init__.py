"""Vocabulary, normalization and documents: shared by training, export and server."""
