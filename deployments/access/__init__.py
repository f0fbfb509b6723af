"""Who may do what, and who did it: access keys, the log-in of the CLI, groups, the audit log, encryption."""
