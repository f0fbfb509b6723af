"""Notifications: which changes of state are news, and their delivery to the channels of the operator."""
