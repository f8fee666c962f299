"""What checks the answers of lesson 13."""
