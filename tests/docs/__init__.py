"""The documents as a reader uses them: their commands exist, and each line that can run here runs."""
