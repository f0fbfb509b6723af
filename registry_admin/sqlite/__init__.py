"""Django's backend for SQLite, which makes the database readable for its owner only. Django imports `base`."""
