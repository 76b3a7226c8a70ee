"""FOMO25: the command lines of its three tasks, the container that answers them, and a check of both."""
