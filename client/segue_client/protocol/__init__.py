"""What a client does from call to call, without I/O: retries, resumption, batching, deadlines."""
