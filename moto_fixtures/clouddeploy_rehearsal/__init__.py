"""Emulated clouds and real SSH hosts on this machine, for rehearsals and tests."""
