"""Device kinds, links and clusters with the source of every figure."""
