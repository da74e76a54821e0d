"""Bodies to rows, tensors or columns, and answers to bodies, in each protocol."""
