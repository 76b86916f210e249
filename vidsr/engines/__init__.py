"""Networks made ready for a device: one seam, one file per engine."""
