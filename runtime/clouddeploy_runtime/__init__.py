"""What runs at a site: server, client agent, jobs, admin session and the startup-kit format."""
