"""Deliberate changes to the code, each with the tests that must fail under it: `make mutants`.

A guard (a condition of an UPDATE, a lease, an audit line, a time limit) is easily removed by accident, and no main
path notices. `entries` lists such removals; `__main__` applies each to a copy of the project and runs its tests.
"""
