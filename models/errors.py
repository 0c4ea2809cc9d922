"""What is wrong with a bundle; apart from `models.bundle`, so that who only hears of it need not load pydantic."""


class BundleError(Exception):
    """The folder is not a bundle that may be used; the text names the file and the remedy."""
