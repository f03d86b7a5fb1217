"""Small working things that several tests share."""
