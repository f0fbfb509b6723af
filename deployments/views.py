"""Pages that are not the API: health, the addresses that the CLI prints, and what errors look like.

Thin on purpose. Below `/api/` every error is JSON with one sentence, because the CLI shows that sentence verbatim
and loses an HTML page.
"""
