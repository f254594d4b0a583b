"""What the dispatcher and its Tasks are made of: from a message to its row or its landing."""
