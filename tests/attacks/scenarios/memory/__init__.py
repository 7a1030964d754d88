"""Attacks on memory: what a client makes the server hold."""
