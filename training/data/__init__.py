"""A file becomes rows of known kinds, and every row gets its part."""
