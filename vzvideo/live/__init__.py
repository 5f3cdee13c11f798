"""Video that goes on: sources, what is remembered of them, and questions at any moment."""
