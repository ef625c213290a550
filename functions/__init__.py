"""What is heard: one module per thing that can happen; a handler is a few lines."""
