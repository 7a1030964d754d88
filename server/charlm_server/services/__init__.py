"""The services of charlm.v1, one module each. They translate; the work is done elsewhere."""
