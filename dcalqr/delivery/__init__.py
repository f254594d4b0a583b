"""From a record to its row or its landing: `intake` stands above the dispatcher, the others are what it is made of."""
