"""Experiments of their own: d2l's tables again, and agreement."""
