"""What the daemon costs, measured: `make bench`."""
