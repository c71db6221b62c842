"""The trained students of finished runs: load them, ask them, give them away."""
