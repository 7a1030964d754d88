"""The attacks. Each is a function of a server's options and its own sizes; it returns what it found."""
