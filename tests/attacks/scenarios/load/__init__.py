"""Attacks by work: too much, too heavy, given up."""
