"""The network as files that agree with it, in a version with its report."""
