"""What segue is compared with."""
