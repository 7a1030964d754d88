"""segue.v1, version 1 of the contract. Generated: `make protos` after a change to a `.proto` file."""
