"""What goes over the wire, as the client's own types."""
