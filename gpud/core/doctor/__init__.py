"""What the doctor finds: pure functions from what was seen of a box to findings."""
