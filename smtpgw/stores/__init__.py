"""What several workers remember together, in a file below the queue's directory."""
