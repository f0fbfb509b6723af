"""A local AWS ECR that enforces permissions: for the demo, for an operator's rehearsal and for the tests.

It checks the program, so it imports nothing from the program: it has its own policy evaluation, SigV4 and registry. It
stores nothing on disk, encrypts nothing, and listens on a loopback address unless `--host` says otherwise.
"""
