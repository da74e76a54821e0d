"""Inference workers: they check versions, prove them, and compute batches."""
