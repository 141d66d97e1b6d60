"""How a site gets its kit without its private key ever leaving it: request, (approval by the project,) package."""
