"""The contract on the wire: requests and responses of segue.v1."""
