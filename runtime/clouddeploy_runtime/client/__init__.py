"""The client agent of a site: one long-lived parent, one process per running job."""
