"""Attacks by messages: hostile, damaged, made up, floods of them."""
