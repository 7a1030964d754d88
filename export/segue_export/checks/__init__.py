"""Checks of exported models: parity with torch, and evaluation on a text."""
