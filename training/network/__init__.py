"""What is learned about columns, and the layers that rows pass through."""
