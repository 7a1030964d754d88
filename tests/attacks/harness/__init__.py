"""What the attacks are made with: servers, clients that misbehave and that do not, and figures."""
