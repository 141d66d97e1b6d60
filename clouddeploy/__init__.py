"""Takes a federated-learning project from a project file to running sites, and back to nothing."""
