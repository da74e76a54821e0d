"""What the server tells of itself: metrics, drift, lines of the log, traces."""
