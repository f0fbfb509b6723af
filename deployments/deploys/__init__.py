"""A deployment from its request to its promotion: image refs, proof of the image, push credentials, projects."""
