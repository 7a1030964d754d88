"""What runs engines: threads, tick lengths, admission, the loaded models."""
