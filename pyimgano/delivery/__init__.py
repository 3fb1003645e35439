"""What leaves the session: saved pipelines, run directories, pictures of results."""

from pyimgano.delivery._environment import environment, package_versions
from pyimgano.delivery._saving import load, save

__all__ = ["environment", "load", "package_versions", "save"]
