"""How gRPC listens, and what it bounds by itself."""
