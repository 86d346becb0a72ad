"""The certification log: the record of an image, writing and resuming it, reading it."""
