"""A federation on this machine, to try things out: prepared, started, stopped and removed by one command each."""
