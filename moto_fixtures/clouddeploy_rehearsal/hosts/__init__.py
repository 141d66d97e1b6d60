"""Real SSH hosts that stand for machines."""
