"""The version of the whole project; the operator pins it exactly."""

__version__ = "0.1.0"
