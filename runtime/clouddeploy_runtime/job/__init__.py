"""What runs inside a job's process: the client API, controllers and aggregation."""
