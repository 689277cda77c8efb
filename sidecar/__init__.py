"""token-sidecar: an async daemon that keeps OAuth2 tokens fresh in files beside a container.

Start reading at ``sidecar.renewer``: it is the main flow for one token, on one screen.
"""


def __getattr__(name: str) -> str:
    """Look the version up when it is asked for: that takes longer than the rest of a `healthcheck`."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import version

    return version("token-sidecar")
