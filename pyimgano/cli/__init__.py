"""The command-line tools: one module per command, one for what they share."""
