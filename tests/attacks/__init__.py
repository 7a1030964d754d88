"""Attacks on the server: small ones among the tests, full ones for `make stress`."""
