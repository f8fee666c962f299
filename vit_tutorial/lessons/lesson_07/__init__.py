"""What checks the answers of lesson 07, how a training is judged, and sick ones (`patients`)."""
