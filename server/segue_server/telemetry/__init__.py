"""What operators see: metrics, health over HTTP, the event loop's lag, and the log of what clients do wrong."""
