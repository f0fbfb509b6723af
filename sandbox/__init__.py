"""A local AWS ECR that says no: for the demo, an operator's rehearsal and the tests.

It is the judge, so it imports nothing of what it judges: its own policy evaluation, its own SigV4, its own registry.
It will not persist anything, encrypt anything, or stand in for AWS anywhere but on a loopback address.
"""
