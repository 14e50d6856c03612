"""Synchronous SGD on a cluster: one gradient sum per step over all workers."""
