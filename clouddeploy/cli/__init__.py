"""The command line: click commands over the library, one renderer, one place that turns an error into an exit code."""
