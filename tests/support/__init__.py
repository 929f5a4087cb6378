"""What tests need to run real servers and real processes."""
