"""Local SGD on a cluster: rounds of independent steps, then an average of parameters."""
