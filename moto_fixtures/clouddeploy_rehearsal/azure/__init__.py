"""Azure: Resource Manager and Entra ID over HTTPS, as far as the unmodified clients of the engine use them."""
