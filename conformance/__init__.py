"""What this project assumes of AWS, as a list that runs. It imports neither the program nor the sandbox.

Read it as a document: `ecr.py`, `ecr_policies.py`, `ecr_images.py`, `ecr_log_ins.py`, `ecr_registry.py`, `sts.py`,
`sqs.py` and `events.py` have the assumptions, each a short function whose docstring is the assumption and whose body
tries it. `assumptions.py` says what an assumption is, `account.py` what a probe gets, `journal.py` what is deleted and
how, `__main__.py` runs them.
"""
