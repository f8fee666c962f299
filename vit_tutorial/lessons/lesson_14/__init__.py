"""What checks the answers of lesson 14, and a cluster that is computed (`cluster`)."""
