"""The addresses of the console's pages that messages name, below the origin.

They are written out here, because `reverse` would load the console and the API into the worker, which doubles the
memory of its process (D-loads-what-it-needs). `tests/notify/test_pages.py` compares them with the URLs.
"""

INDEX, HEALTH = "/admin/", "/admin/setup/"


def page_of(model: str, pk: int | str) -> str:
    """The page of one row; `model` in small letters, such as `deployment`."""
    return f"{list_of(model)}{pk}/change/"


def list_of(model: str) -> str:
    """The list of a model's rows."""
    return f"/admin/deployments/{model}/"
