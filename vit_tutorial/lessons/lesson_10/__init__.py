"""What checks the answers of lesson 10, and what images go through in it (`changes`)."""
