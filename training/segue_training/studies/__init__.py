"""Studies: the tables of d2l, and agreement."""
