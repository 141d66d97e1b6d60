"""A relay between the server and some clients."""
