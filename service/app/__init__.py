"""What LitServe's application answers: every path but the fast lane's, and predictions in every other form."""
