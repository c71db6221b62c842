"""Measured speed: `bench` takes the numbers, `facts` holds them, `saved` keeps them for estimates."""
