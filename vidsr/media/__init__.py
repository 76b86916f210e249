"""Files and colour; knows nothing of networks."""
