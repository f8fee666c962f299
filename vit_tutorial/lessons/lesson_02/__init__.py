"""What checks the answers of lesson 02, and what a learner's module must do (`module_checks`)."""
