"""States that leave the engine: snapshots, tickets, sessions and their keys."""
