"""From project.yml to signed startup kits."""
