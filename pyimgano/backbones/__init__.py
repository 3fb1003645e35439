"""Pretrained networks: their weights, and running them as far as a layer."""
