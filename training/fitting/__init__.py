"""Networks are fitted, side by side, and the best average is chosen."""
