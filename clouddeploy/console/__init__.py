"""The admin console: commands of a person at a prompt, or line by line from a pipe, on one session with the server."""
