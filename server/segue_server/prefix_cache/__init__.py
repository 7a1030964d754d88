"""A cache of the states of earlier prompts."""
