"""token-sidecar: an async daemon that keeps OAuth2 tokens fresh in files beside a container.

Start reading at ``sidecar.renewer``: it is the main flow for one token, on one screen.
"""

from importlib.metadata import version

__version__ = version("token-sidecar")
