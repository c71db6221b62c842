"""Results of others: how they are handed in, read without trust, checked, and made available to the boards."""
