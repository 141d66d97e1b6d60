"""Trains nothing; the tests look at how it would be started."""
