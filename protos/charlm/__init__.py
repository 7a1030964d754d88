"""The wire contract of charlm: protocol buffers and the Python code generated from them."""
