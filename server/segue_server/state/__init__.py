"""States outside the engine: snapshots, tickets, sessions, and their keys."""
