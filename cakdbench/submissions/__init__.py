"""Results of others: how they are submitted, read without trust, checked, and made available to the boards."""
