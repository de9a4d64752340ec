"""moeplan: where the experts of a Mixture-of-Experts model live, and how tokens choose among their replicas."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("moeplan")
except PackageNotFoundError:  # a checkout that is run without being installed
    __version__ = "0.0.0+checkout"
