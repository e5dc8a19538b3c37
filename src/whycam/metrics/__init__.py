"""From maps to numbers: one decorated function per metric, one number a photo."""
