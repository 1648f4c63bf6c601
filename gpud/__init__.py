"""gpud turns one GPU box into its owner's own serverless GPU platform."""
