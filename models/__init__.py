"""The contract between training and serving: what a row is, and what a published version holds."""
