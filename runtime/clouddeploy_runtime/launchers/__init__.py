"""How a job's process is started; one module per way."""
