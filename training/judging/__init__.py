"""How good the network is, how sure, what its answers rest on, and what to look at before relying on it."""
