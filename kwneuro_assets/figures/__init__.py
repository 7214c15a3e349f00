"""The figure and the summary numbers of each derivative."""
