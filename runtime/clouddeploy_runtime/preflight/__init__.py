"""Checks of a site before it starts; nothing here changes anything."""
