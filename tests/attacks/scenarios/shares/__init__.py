"""Attacks on what clients share: places, connections, threads."""
