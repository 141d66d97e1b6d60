"""Checks of a site before it starts; nothing here changes anything, listens, or keeps a running site from its work."""
