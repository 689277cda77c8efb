"""Probes, metrics page and control socket. Importing this package imports none of its servers."""
