"""Machines reached over SSH: pinned keys, verified uploads, one bootstrap for all of them."""
