"""States behind prompts that came before."""
