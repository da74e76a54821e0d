"""Who may ask, for what and how fast, and over which TLS."""
