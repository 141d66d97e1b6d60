"""Where machines come from: one boundary (`base`, `resources`), one folder or module per provider."""
