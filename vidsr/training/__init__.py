"""The tower: everything that makes weights. Its only door to inference is `weights/`."""
