"""The services of segue.v1, one module each. They translate; the work is done elsewhere."""
