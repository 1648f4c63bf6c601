"""gpud turns one GPU box into its owner's own serverless GPU platform."""

__version__ = "0.1.0"
