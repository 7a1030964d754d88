"""What a client does call by call, without I/O: retries, resumption, batching, deadlines."""
