"""`python -m registry_admin` is the command `registry-admin`."""

from registry_admin.command_line import main

if __name__ == "__main__":
    main()
