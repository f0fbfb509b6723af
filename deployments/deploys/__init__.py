"""A deployment from the request to the promotion: versions, push credentials, image verification, projects."""
