"""What a long-lived parent, the server or a site's client, can tell people about itself and its machine."""
