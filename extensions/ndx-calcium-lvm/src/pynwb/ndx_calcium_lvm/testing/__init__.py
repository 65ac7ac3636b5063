"""What helps to test code that reads or writes these types."""
