"""Channels to servers."""
