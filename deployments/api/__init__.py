"""The web API: the only importer of ninja."""

from ninja import NinjaAPI

api = NinjaAPI(title="Registry Admin", version="1", docs_url=None)
