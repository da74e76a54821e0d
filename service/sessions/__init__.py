"""The runtimes behind the Session seam."""
