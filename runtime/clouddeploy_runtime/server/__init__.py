"""The federation's server: one long-lived parent, one port, one process per running job."""
