"""How repositories are kept as configured: which configuration counts, who works on what, and for how long."""
