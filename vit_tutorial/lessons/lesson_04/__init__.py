"""What checks the answers of lesson 04."""
