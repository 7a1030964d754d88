"""A call: whether it is let in, what it holds, how its messages are read and its status is sent."""
