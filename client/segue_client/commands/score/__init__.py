"""`segue score`: how probable a model finds texts."""
