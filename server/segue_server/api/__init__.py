"""The wire: requests and responses of segue.v1."""
