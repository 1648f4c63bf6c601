"""What worker images copy in; nothing of gpud imports it."""
