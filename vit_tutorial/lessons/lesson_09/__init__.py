"""What checks the answers of lesson 09, and rollouts that go wrong (`rollouts`)."""
