"""The wire contract of segue: protocol buffers and the Python code generated from them."""
