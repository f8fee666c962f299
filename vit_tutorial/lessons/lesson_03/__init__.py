"""What checks the answers of lesson 03."""
