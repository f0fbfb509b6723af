"""Keeps repositories as configured: which configuration counts, leases, convergence, sweeps, change events."""
