#!/usr/bin/env python
"""The command line in a checkout: `python manage.py help`. In an installed package it is `registry-admin help`."""

from registry_admin.command_line import main

if __name__ == "__main__":
    main()
